"""What a command prints without running: its help, its config, or what Hydra says."""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial

import hydra
import yaml

from descent import __version__
from descent.cli.compose import compose
from descent.cli.overrides import quote_words
from descent.paths import CONF, list_choices, list_groups, read_conf


def inform(name: str, flags: Mapping[str, str], words: Sequence[str], arguments: Sequence[str]) -> None:
    """Print what flags such as `--version` request; those of Hydra, such as `--info`, are passed to it."""
    if "--help" in flags:
        print_help(name)
    elif "--version" in flags:
        print(__version__)
    elif flags.get("--cfg") == "job":
        words = [word for word in words if not word.startswith("resume=")]
        config = compose(name, quote_words(words, flags)).config
        print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")
    else:
        sys.argv[1:] = arguments
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(lambda config: None)()


def print_help(name: str) -> None:
    """Print a command's help, from conf/ alone."""
    text = read_conf(CONF / f"{name}.yaml")
    fill = partial(textwrap.fill, width=80, break_on_hyphens=False)
    print(fill(text.splitlines()[0].lstrip("# ")) + "\n")
    if name == "train":
        print("One word per choice, such as loss=mae; the default is in brackets.")
        for item in yaml.safe_load(text)["defaults"]:
            for key, default in item.items() if isinstance(item, dict) else ():
                group = key.removeprefix("optional ")  # marks a room that can be removed
                if group in list_groups():
                    print(f"\n{group}  [{default}]" if default else f"\n{group}")
                    print("\n".join(describe_word(group, word) for word in list_choices(group)))
        print("\nAny field of the config works the same way, such as optimizer.lr=0.1.")
        print("  --cfg job       print the whole config of a run, without running it")
        print("  -m, --multirun  a run for each combination, such as -m loss=mae,mse seed=0,1,2\n")
    fields = text.rpartition("\n\n")[2].splitlines()
    print("\n".join(fill(line, subsequent_indent=" " * 25 + "# ") for line in fields))


def describe_word(group: str, word: str) -> str:
    """Return a word and the first line of its file, at most 80 characters wide."""
    lines = read_conf(CONF / group / f"{word}.yaml").splitlines()
    first = next((line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line), "")
    return textwrap.fill(first, 80, initial_indent=f"  {word:<22}", subsequent_indent=" " * 24)
