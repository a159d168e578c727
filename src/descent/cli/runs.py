"""Starts a run from its overrides: composes or resumes its config, checks it, and claims a folder."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from descent.build import Config
from descent.cli.check import check
from descent.cli.compose import compose
from descent.cli.main import watch_for_garbage
from descent.cli.overrides import by_key, key_of
from descent.errors import require
from descent.run.folder import Run, RunFolder, claim, move


def start(job: Callable[..., Any], words: Sequence[str]) -> Any:
    """Call a job with the `Config` and the `Run` that overrides define, new or resumed; return its result."""
    composed = compose("train", words)
    config, folder = composed.config, composed.config["folder"]
    require("$" not in folder, "folder", folder, "a path without $, which loggers would replace")
    run = Run(RunFolder(folder), choices=composed.choices)
    value, words = config["resume"], [word for word in words if key_of(word) != "resume"]
    if value is True or isinstance(value, str) or "SLURM_RESTART_COUNT" in os.environ:
        from descent.cli.resume import find_resumed, resume

        if found := find_resumed(value, run.folder.path, words):
            config, words, run = resume(found, words)
    check("train", config, by_key(words))
    config["resume"], wanted = None, run.folder.path

    def describe(folder: RunFolder) -> Mapping[Path, str]:
        """Return the first files of a folder: the run's config and its overrides."""
        own = {**move(config, str(wanted), str(folder.path)), "choices": run.choices}
        texts = {folder.config: own, folder.overrides: list(words)}
        return {p: yaml.safe_dump(t, sort_keys=False, allow_unicode=True) for p, t in texts.items()}

    with claim(wanted, run.resumed, describe) as folder:
        run.folder, run.files, run.taken = folder, describe(folder), folder.path.name != wanted.name
        watch_for_garbage()
        return job(Config(move(config, str(wanted), str(folder.path))), run)
