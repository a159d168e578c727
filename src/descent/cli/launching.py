"""A sweep whose runs Hydra's launchers start: submitit on SLURM, Ray, joblib, or any other."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from descent.cli.compose import compose_and_call
from descent.cli.words import quote_literally
from descent.sweep.plan import Plan, Point
from descent.sweep.workers import run_apart


def launch(points: Sequence[Point], plan: Plan, words: Sequence[str], script: str) -> None:
    """Have Hydra sweep over the folders of runs, each of which is then run by a command of its own.

    Args:
        points: to be run.
        plan: of the sweep.
        words: to Hydra, such as `hydra/launcher=joblib`.
        script: of the command.
    """
    by_folder = {str(point.folder.path): point for point in points}
    folders = ",".join(map(quote_literally, by_folder))
    place = quote_literally(str(plan.folder))
    sys.argv[1:] = ["--multirun", *words, f"folder={folders}", f"hydra.sweep.dir={place}"]
    compose_and_call(partial(run_one, [sys.executable, script], by_folder), "train", list(words))


def run_one(command: Sequence[str], points: Mapping[str, Point], config: Any) -> int:
    """Run the point of a config, which says nothing but its folder."""
    return run_apart(command, points[config.folder])
