"""Starts a run from its overrides: composes or resumes its config, checks it, and claims a folder."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from descent.build import Config
from descent.cli.check import check, check_value
from descent.cli.compose import compose
from descent.cli.fields import FIELDS
from descent.cli.main import watch_for_garbage
from descent.cli.overrides import by_key, key_of, parse
from descent.errors import require
from descent.run.folder import Run, RunFolder, claim, move


def start(job: Callable[..., Any], words: Sequence[str]) -> Any:
    """Call a job with the `Config` and the `Run` that overrides define, new or resumed; return its result."""
    value: Any = next((parse(word).value() for word in words if key_of(word) == "resume"), None)
    check_value("resume", value, FIELDS["train"]["resume"], "")
    words = [word for word in words if key_of(word) != "resume"]
    composed = compose("train", words)
    config, choices = composed.config, composed.choices
    wanted = Path(config["folder"])
    require("$" not in str(wanted), "folder", wanted, "a path without $, which loggers would replace")
    found, allowed = None, None
    changes: dict[str, Any] = {}
    if value or "SLURM_RESTART_COUNT" in os.environ:
        from descent.cli.resume import find_resumed, resume

        if found := find_resumed(value, wanted, words):
            config, words, changes, allowed = resume(found, words)
            choices, wanted = config.pop("choices", {}), found.path
    config["resume"] = None
    check("train", config, by_key(words))

    def describe(folder: RunFolder) -> Mapping[Path, str]:
        """Return the first files of a folder: the run's config and its overrides."""
        run = {**move(config, str(wanted), str(folder.path)), "choices": choices}
        texts = {folder.config: run, folder.overrides: list(words)}
        return {p: yaml.safe_dump(t, sort_keys=False, allow_unicode=True) for p, t in texts.items()}

    with claim(wanted, found is not None, describe) as folder:
        run = Run(
            folder,
            resumed=found is not None,
            files=describe(folder),
            allowed=allowed,
            changes=changes,
            choices=choices,
            taken=folder.path.name != wanted.name,
        )
        watch_for_garbage()
        return job(Config(move(config, str(wanted), str(folder.path))), run)
