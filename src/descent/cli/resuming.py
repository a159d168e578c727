"""`resume=`: it puts the words of a run in place of the run's folder, and makes the config that run's."""

import re
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from descent.cli.compose import blame_reference, list_fields, resolve_references
from descent.cli.describe import set_text
from descent.cli.paths import CONF, list_groups
from descent.cli.words import parse, parses, quote_literally
from descent.errors import ConfigError
from descent.run.folder import RunFolder
from descent.run.resume import (
    find_run,
    flatten,
    is_set,
    key_of,
    merge_words,
    read_config,
    read_words,
    require_harmless,
    require_kept,
    require_same,
)
from descent.run.trust import kind_of, targets

# a reference to anything but keys of the config and what conf/ is filled from: `${oc.env:TOKEN}` is one
BEYOND = re.compile(r"\$\{(?![\w.\[\]]+\}|(run_name|run_folder|logs|datasets):)")


def expand(words: list[str]) -> list[str]:
    """Put the words that a run was started with in place of `resume=folder`; words typed after them win.

    Raises:
        ConfigError: the folder holds no run, or no words of a run's command line.
    """
    values = [parse(word).value() for word in words if key_of(word) == "resume"]
    if not values or not isinstance(values[-1], str) or not values[-1]:
        return words
    folder = RunFolder(Path(values[-1].replace("\\${", "${")).expanduser().resolve())
    saved = read_words(folder, [*list_fields("train"), "experiment"], list_groups())
    typed = [word for word in words if key_of(word) != "resume"]
    require_closed(saved, folder.overrides, [key_of(word) for word in typed])
    return [*merge_words(saved, typed), f"resume={quote_literally(str(folder.path))}"]


def require_closed(saved: Iterable[str], file: Path, typed: Collection[str]) -> None:
    """Refuse words of a folder that would bring something into it that is not a person's to hand on.

    Args:
        saved: the words.
        file: that they are from.
        typed: keys that the command line sets, whose saved words no longer count.

    Raises:
        ConfigError: naming the first one.
    """
    for word in saved:
        if not parses(word):
            raise ConfigError(str(file), expected=f"words of a command line, and no {word[:200]!r}")
        if key_of(word) not in typed and BEYOND.search(str(parse(word).value())):
            expected = "words that read nothing of this machine, or this one typed again"
            raise ConfigError(str(file), word[:200], expected=expected)


def stay_offline(config: DictConfig, typed: Collection[str]) -> None:
    """Have a resumed run download no data: it learned from what is there, and may be somebody else's."""
    data = OmegaConf.to_container(config.data)
    assert isinstance(data, dict)
    for key, _ in flatten(data, "data."):
        if key.endswith(".download") and not is_set(key, typed):
            OmegaConf.update(config, key, False)


def resume(
    config: DictConfig, words: list[str], overrides: dict[str, str], typed: dict[str, str]
) -> RunFolder | None:
    """Give a config the name and folder of the run that it resumes; return that run's folder, if any.

    Args:
        config: as composed; it is changed.
        words: of the command line, without `resume`.
        overrides: what the words set, by key.
        typed: see `run_job`.

    Raises:
        ConfigError: there is no such run, or the words ask for another one.
    """
    try:
        for key in ("name", "folder"):  # resolved once, because the folder has the time in it
            set_text(config, key, str(config[key]))
        found = find_run(config.resume, Path(config.folder).expanduser().resolve(), words)
        config.resume = None
    except OmegaConfBaseException as error:
        raise blame_reference(error, overrides) from error
    if found is None:
        return None
    before = read_config(found)
    for key, text in (("name", before["name"]), ("folder", found.path), ("resume", found.path)):
        set_text(config, key, str(text))
    now, raw = resolve_references(config, overrides), OmegaConf.to_container(config)
    assert isinstance(raw, dict)
    require_harmless(found, now, typed, list_targets())
    require_kept(found, before, now, typed)
    require_same(found, before, now, {str(key): value for key, value in raw.items()}, typed)
    return found


@cache
def list_targets() -> frozenset[tuple[str, str]]:
    """Return what the files of conf/ name, which is a person's own: the kind of each, and its name."""
    found: set[tuple[str, str]] = set()
    for path in CONF.rglob("*.yaml"):
        group = path.parent.name if path.parent.name in list_groups() else ""
        file = OmegaConf.to_container(OmegaConf.load(path))
        named = targets(file, "" if group == "experiment" else group)
        found |= {(kind_of(key), str(target)) for key, target in named}
    return frozenset(found)
