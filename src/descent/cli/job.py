"""What happens between a composed config and its job: resume, check, claim."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from descent.cli.check import check
from descent.cli.compose import list_fields, list_overrides, resolve_references
from descent.cli.describe import describe_files, list_changes, list_hyperparameters, list_monitors
from descent.cli.paths import LOGS, ROOT
from descent.cli.resuming import resume, stay_offline
from descent.cli.words import by_key
from descent.errors import ConfigError
from descent.run.folder import Run, RunFolder, claim, find_runs
from descent.run.resume import key_of


def run_job(
    job: Callable[..., Any], name: str, config: DictConfig, overrides: dict[str, str], typed: dict[str, str]
) -> Any:
    """Check a config, and call the job on it; see `command`.

    Args:
        job: of the command.
        name: of the command.
        config: as composed.
        overrides: is filled with what the words of this job set, by key.
        typed: what was typed, by key, without the words from a resumed run's folder.
    """
    words = list_overrides()
    overrides.update(by_key(words))
    if name != "train":
        plain = resolve_references(config, overrides)
        raise_first(check(plain, overrides, list_fields(name)).problems)
        if "run" in plain:
            config.run = locate_run(plain["run"])
        return job(config)
    words = [word for word in words if key_of(word) != "resume"]
    found = resume(config, words, overrides, typed)
    plain = resolve_references(config, overrides)
    prune(config, plain, overrides)
    plain = resolve_references(config, overrides)
    chosen = dict(HydraConfig.get().runtime.choices)
    with claim(plain["folder"], found is not None, partial(describe_files, config, words)) as folder:
        run = Run(
            folder,
            wanted=RunFolder(plain["folder"]),
            resumed=found is not None,
            files=describe_files(config, words, folder),
            changes=list_changes(plain, found, typed) if found else {},
            hyperparameters=list_hyperparameters(plain, chosen),
            monitors=list_monitors(plain),
            source=ROOT,
        )
        if found:
            stay_offline(config, typed)
        return job(config, run)


def raise_first(problems: Iterable[ConfigError]) -> None:
    """Raise the first of several problems, because the others may follow from it."""
    for problem in problems:
        raise problem


def prune(config: DictConfig, plain: dict[str, Any], overrides: dict[str, str]) -> None:
    """Raise what is wrong with a config, and drop arguments that nobody typed and no target takes."""
    from descent.cli.machine_limits import check_machine

    found = check(plain, overrides, list_fields("train"))
    raise_first(found.problems)
    raise_first(check_machine(plain))
    for key, target in found.left_out.items():
        print(f"{key} is left out: {target} does not take it")
        parent, _, argument = key.rpartition(".")
        with open_dict(config):
            del OmegaConf.select(config, parent)[argument]


def locate_run(run: str | None) -> str:
    """Return the folder of the run that a command is about; `latest` is the newest one in logs/."""
    newest: RunFolder | None = next(iter(find_runs(LOGS)), None)
    if run is None or (run == "latest" and newest is None):
        there = f"; the newest is {newest}, or run=latest" if newest else ""
        raise ConfigError("run", run, expected=f"the folder of a run, logs/…{there}")
    return str(newest) if run == "latest" else run
