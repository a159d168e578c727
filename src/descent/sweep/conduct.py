"""A sweep from its plan to its answer: what is missing is run, and then all is ranked."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any

from descent.errors import Stopped
from descent.run.atomic import write_text
from descent.run.folder import RunFolder
from descent.sweep.pictures import draw_curves, draw_line, draw_map
from descent.sweep.plan import Plan, Point
from descent.sweep.ranking import (
    Measure,
    Row,
    choose_measure,
    collect,
    explain_marks,
    rank,
    tabulate,
    to_csv,
    to_markdown,
    to_text,
)
from descent.sweep.search import RATE, suggest_rate
from descent.sweep.workers import Call, Limits, Source, Workers, last_line

RARELY = 10.0  # seconds between two lines of progress where there is no terminal


class Missing:
    """The points of a plan whose runs are not done."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.waiting = [point for point in points if not point.is_over()]

    def take(self) -> Point | None:
        return self.waiting.pop(0) if self.waiting else None

    def left(self) -> int:
        return len(self.waiting)

    def ended(self, point: Point) -> None:
        pass

    def is_hopeless(self, point: Point) -> bool:
        return False


class Line:
    """One line on all runs: on a terminal it stays up to date, elsewhere it comes again now and then.

    Args:
        done: runs that had ended before.
        lenient: whether runs may fail, as those of a learning rate that is too high do.
    """

    def __init__(self, done: int, lenient: bool) -> None:
        self.done, self.told, self.at = done, 0, time.monotonic()
        self.lenient = lenient
        self.terminal = sys.stdout.isatty()

    def tell(self, workers: Workers) -> None:
        """Show how far it is, and once of each run that it failed."""
        failed = list(workers.failed.items())
        if not workers.signals.received and not self.lenient:
            for point, code in failed[self.told :]:
                self.say(describe_failure(point, code))
        self.told = len(failed)
        done = self.done + len(workers.seconds) + workers.pruned
        text = f"{done} done, {len(workers.running)} running, {workers.waiting} to come"
        text += f", {workers.pruned} ended early" if workers.pruned else ""
        text += f", {len(failed)} failed" if failed else ""
        if workers.seconds:
            left = estimate(workers)
            text += f", about {timedelta(seconds=round(left))} left"
        if self.terminal:
            sys.stdout.write("\r\x1b[2K" + text[: shutil.get_terminal_size().columns - 1])
            sys.stdout.flush()
        elif time.monotonic() - self.at > RARELY:
            self.at = time.monotonic()
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line in the place of the one that moves."""
        print(("\r\x1b[2K" if self.terminal else "") + text, flush=True)


def describe_failure(point: Point, code: int) -> str:
    """Which run failed and why, in a line."""
    why = last_line(point.folder) if code > 0 else f"signal {-code} ended it"
    return f"failed: {point.name}: {why} (all it said: {RunFolder(point.folder.log)})"


def estimate(workers: Workers) -> float:
    """Seconds that are left, by what runs took so far."""
    usual, now = mean(workers.seconds), time.monotonic()
    rest = [max(0.0, usual - (now - worker.begun)) for worker in workers.running]
    return (workers.waiting * usual + sum(rest)) / max(1, len(workers.running))


@dataclass
class Command:
    """How runs are started.

    Attributes:
        call: runs a command line; see `Workers`.
        limits: of what runs at the same time.
        monitor, mode: what runs look at.
        script: the command, as typed.
        groups: of words that choose a file, the recipes' first.
    """

    call: Call
    limits: Limits
    monitor: str
    mode: str
    script: str
    groups: Sequence[str]


def conduct(plan: Plan, source: Source, command: Command) -> int:
    """Run what is missing of a sweep, rank all of it, and tell; returns how many runs failed.

    Raises:
        Stopped: by a signal; every run that was at work has saved.
    """
    begun = time.monotonic()
    total = announce(plan, source.left())
    lenient = "epochs" in plan.search
    line = Line(total - source.left(), lenient)
    workers = Workers(command.call, command.limits, line.tell)
    received = workers.run(source)
    line.say("")
    if received:
        done = sum(point.is_over() for point in plan.points())
        text = f"Stopped and saved: {done} of {total} runs are done. Go on with: {go_on(plan, command)}"
        raise Stopped(text, code=128 + received)
    print(conclude(plan, plan.points(), command))
    if workers.pruned:
        print(f"{workers.pruned} runs were ended early")
    failed = {} if lenient else workers.failed
    for point, code in failed.items():
        print(describe_failure(point, code))
    if failed:
        print(f"Try those again with: {go_on(plan, command)}")
    print(f"{len(workers.seconds)} runs in {time.monotonic() - begun:.1f} s")
    return len(failed)


def conduct_elsewhere(plan: Plan, launch: Callable[[list[Point]], None], command: Command) -> int:
    """Have something else run what is missing, and rank all of it; returns how many runs are not done."""
    missing = [point for point in plan.points() if not point.is_over()]
    announce(plan, len(missing))
    if missing:
        launch(missing)
    print(conclude(plan, plan.points(), command))
    failed = [point for point in plan.points() if not point.is_over()]
    for point in failed:
        print(describe_failure(point, 1))
    if failed:
        print(f"Try those again with: {go_on(plan, command)}")
    return len(failed)


def announce(plan: Plan, missing: int) -> int:
    """Say how many runs there are; returns that."""
    done = sum(point.is_over() for point in plan.points())
    print(
        f"{plan.folder.name}: {done + missing} runs" + (f", {done} of them done" if done else ""), flush=True
    )
    return done + missing


def go_on(plan: Plan, command: Command) -> str:
    """The command line that goes on with a sweep."""
    return f"python {command.script} -m {shlex.quote(f'resume={RunFolder(plan.folder)}')}"


def conclude(plan: Plan, points: Sequence[Point], command: Command) -> str:
    """Rank runs, leave the ranking and the pictures in the sweep's folder, and return it in words."""
    folder, rows = plan.folder, collect(points)
    if not rows:
        return "No run has come to its end."
    figures = next(iter(rows[0].figures.values()))
    measure = choose_measure(command.monitor, command.mode, list(points[0].values), figures)
    ranked = rank(rows, measure)
    if not ranked:
        return f"No run has {measure.metric}."
    table, marks = tabulate(ranked, measure), explain_marks(ranked, measure)
    best = ranked[0]
    chosen = min if measure.lower else max
    repeat = chosen(best.figures, key=lambda repeat: best.figures[repeat].get(measure.metric, 0.0))
    typed = f"python {command.script} {shlex.join(best.points[repeat].words)}"
    lines = [f"Best run:    {typed}", f"Its folder:  {best.points[repeat].folder}"]
    write_text(folder / "ranking.csv", to_csv(ranked))
    write_text(
        folder / "ranking.md",
        f"{to_markdown(table)}\n{marks}\n\n```sh\n{typed}\n```\n",
    )
    write_pictures(folder, ranked, measure)
    recipe = folder / "experiment" / "best.yaml"
    recipe.parent.mkdir(exist_ok=True)
    write_text(
        recipe,
        to_experiment(best.points[repeat], command.groups, f"the best of {folder.name} by {measure.metric}"),
    )
    lines.append(f"As a recipe: python {command.script} --config-dir {RunFolder(folder)} experiment=best")
    if RATE in plan.values and "epochs" in plan.search:
        values = {float(row.values[RATE]): mean(row.of(measure.metric)) for row in ranked}
        rate = suggest_rate(values, [float(rate) for rate in plan.values[RATE]], measure.lower)
        lines.insert(0, f"Suggestion:  {RATE}={rate:g}, the best together with its neighbours")
    where = [f"All of it:   {RunFolder(folder)}", f"TensorBoard: tensorboard --logdir {RunFolder(folder)}"]
    return "\n".join([to_text(table), "", marks, "", *lines, *where])


def to_experiment(point: Point, groups: Sequence[str], comment: str) -> str:
    """A file of the group experiment with the words of a run."""
    pairs = [word.lstrip("+~").partition("=")[::2] for word in point.words if not word.startswith("hydra")]
    choices = [f"  - {value}" for key, value in pairs if key == "experiment"]
    choices += [f"  - override /{key}: {value}" for key, value in pairs if key in groups[1:]]
    fields: dict[str, Any] = {}
    for key, value in pairs:
        *parents, last = key.split(".")
        node = fields
        for parent in parents:
            node = node.setdefault(parent, {})
        if key not in groups:
            node[last] = value
    lines = ["# @package _global_", f"# {comment}", *(["defaults:", *choices] if choices else [])]
    return "\n".join([*lines, *to_yaml(fields)]) + "\n"


def to_yaml(fields: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of YAML with values as they were typed, which keeps 1e-4 a number."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from to_yaml(value, indent + "  ")
        else:
            yield f"{indent}{key}: {value}"


def write_pictures(folder: Path, rows: Sequence[Row], measure: Measure) -> None:
    """Draw the curves, and the map where there can be one."""
    draw_curves(rows, measure, folder / "curves.png")
    if len(rows[0].values) == 2:
        draw_map(rows, measure, folder / "map.png")
    elif len(rows[0].values) == 1:
        draw_line(rows, measure, folder / "line.png")
