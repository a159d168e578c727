"""Which run `resume=` means: the last one of the same command, or the one in a folder."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from descent.errors import ConfigError
from descent.trust import require_trusted, targets

WORD = re.compile(r"(?!hydra\b)[+~]{0,2}[A-Za-z_][\w./@]*(=.*)?", re.DOTALL)
TYPED: list[str] = []  # of this process, without the words that a folder's run was started with


def expand(words: Sequence[str]) -> list[str]:
    """Put the words that a run was started with in the place of `resume=folder`; later words win.

    Raises:
        ConfigError: the folder holds no run, or words that no command line of a run has.
    """
    TYPED[:] = words
    folders = [word.partition("=")[2].strip("'\"") for word in words if word.startswith("resume=")]
    if not folders or folders[-1].lower() in ("true", "false", "null", ""):
        return list(words)
    folder = Path(folders[-1]).expanduser().resolve()
    given = [word for word in words if not word.startswith("resume=")]
    saved = saved_words(folder)
    for word in saved:
        if not isinstance(word, str) or not WORD.fullmatch(word):
            raise ConfigError(f"{folder / 'overrides.yaml'}: refused, for {word!r} is no word of a run")
    quoted = str(folder).replace("'", "\\'")
    return [*saved, *given, f"resume='{quoted}'"]


def given_words() -> list[str]:
    """The words of this run's command line, in a sweep those of the one run."""
    words = OmegaConf.to_container(HydraConfig.get().overrides.task)  # unresolved: a word may hold ${…}
    assert isinstance(words, list)
    return words


def prepare(config: DictConfig) -> None:
    """Make the config that of the run it resumes: its name and its folder.

    Args:
        config: as composed from this command line; `resume` is null, false, true or a folder.

    Raises:
        ConfigError: there is no such run, or it was another one: some value differs that no word sets.
    """
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0  # SLURM runs a requeued job's command again
    if not config.resume and not again:
        config.resume = None
        return
    if isinstance(config.resume, str):
        folder = Path(config.resume)
    elif (
        found := earlier_run(Path(config.folder).expanduser().resolve(), without_resume(given_words()))
    ) is not None:
        folder = found
    elif again:
        config.resume = None
        return
    else:
        raise ConfigError(
            "resume=true: expected a run of this same command in"
            f" {os.path.relpath(Path(config.folder).parent)}; there is none"
        )
    config.resume = str(folder)
    before = read_yaml(folder / "config.yaml")
    if not isinstance(before, dict) or not {"name", "folder"} <= before.keys():
        raise ConfigError(f"resume={folder}: expected the folder of a run; its config.yaml is not one")
    config.name = before["name"]
    moved_from, config.folder = str(before["folder"]), str(folder)
    now = OmegaConf.to_container(config, resolve=True)
    assert isinstance(now, dict)
    typed = {word.lstrip("+~").partition("=")[0] for word in TYPED}
    require_trusted(now, [*local_targets(), *(word.partition("=")[2] for word in TYPED)])
    old = dict(flat(before))
    for key, value in flat(now):
        was = old.get(key)
        if isinstance(was, str):
            was = was.replace(moved_from, str(folder))
        set_here = any(
            key == word or key.startswith(f"{word}.") or word == key.split(".")[0] for word in typed
        )
        if was != value and key != "resume" and not set_here:
            raise ConfigError(f"resume={folder.name}: {key} was {was} in that run, and would be {value} now")


def earlier_run(folder: Path, words: list[str]) -> Path | None:
    """The newest run beside `folder` that was started with these words."""
    runs = [path.parent for path in folder.parent.glob("*/overrides.yaml")]
    runs.sort(key=lambda run: (run / "overrides.yaml").stat().st_mtime_ns, reverse=True)
    return next((run for run in runs if sorted(map(str, saved_words(run))) == sorted(words)), None)


def without_resume(words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.startswith("resume=")]


def saved_words(folder: Path) -> list[Any]:
    if not (folder / "overrides.yaml").is_file():
        raise ConfigError(f"resume={folder}: expected the folder of a run; it has no overrides.yaml")
    words = read_yaml(folder / "overrides.yaml")
    return words if isinstance(words, list) else []


def local_targets() -> set[str]:
    """What the files of conf/ name: those are the user's own."""
    conf = Path(__file__).resolve().parents[1] / "conf"
    files = (read_yaml(path) for path in conf.rglob("*.yaml"))
    return {str(target) for file in files for _, target in targets(file)}


def read_yaml(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{path}: expected a file that a run wrote ({reason})") from error


def flat(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
