"""Runs a command that uses finished runs, such as `evaluate`."""

from collections.abc import Callable, Sequence
from typing import Any

from descent.build import Config
from descent.cli.check import check
from descent.cli.compose import compose
from descent.cli.main import watch_for_garbage
from descent.cli.overrides import by_key, quote
from descent.errors import ConfigError
from descent.paths import LOGS


def run_command(job: Callable[..., Any], name: str, words: Sequence[str]) -> None:
    """Call a job with the config that `conf/<name>.yaml` and overrides define."""
    config = compose(name, words).config
    check(name, config, by_key(words))
    if config.get("run", "") is None:
        from descent.run.saved import find_runs

        newest = next(iter(find_runs(LOGS)), "logs/…")
        raise ConfigError("run", None, expected=f"the folder of a run, such as {newest}")
    watch_for_garbage()
    job(Config(config))


def gather(words: Sequence[str]) -> list[str]:
    """Return overrides in which folders, whose names may contain =, are collected in the list `runs`."""
    runs = [word for word in words if "=" not in word or "/" in word.partition("=")[0]]
    return [f"runs=[{','.join(map(quote, runs))}]", *(word for word in words if word not in runs)]
