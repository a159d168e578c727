"""A sweep from its plan to its answer: what is missing is run, and then all is ranked."""

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import mean

from descent.errors import Stopped
from descent.run.atomic import write_text
from descent.run.folder import RunFolder
from descent.sweep.pictures import draw_curves, draw_map
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
from descent.sweep.workers import Call, Limits, Source, Workers, last_line

RARELY = 10.0  # seconds between two lines of progress where there is no terminal


class Missing:
    """The points of a plan whose runs are not done."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.waiting = [point for point in points if point.state() != "done"]

    def take(self) -> Point | None:
        return self.waiting.pop(0) if self.waiting else None

    def left(self) -> int:
        return len(self.waiting)

    def ended(self, point: Point, code: int) -> None:
        pass


class Line:
    """One line on all runs: on a terminal it stays up to date, elsewhere it comes again now and then.

    Args:
        done: runs that had ended before.
    """

    def __init__(self, done: int) -> None:
        self.done, self.told, self.at = done, 0, time.monotonic()
        self.terminal = sys.stdout.isatty()

    def tell(self, workers: Workers) -> None:
        """Show how far it is, and once of each run that it failed."""
        failed = list(workers.failed.items())
        if not workers.signals.received:
            for point, code in failed[self.told :]:
                self.say(describe_failure(point, code))
        self.told = len(failed)
        done = self.done + len(workers.seconds)
        text = f"{done} done, {len(workers.running)} running, {workers.waiting} to come"
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
    """

    call: Call
    limits: Limits
    monitor: str
    mode: str
    script: str


def conduct(plan: Plan, source: Source, command: Command) -> int:
    """Run what is missing of a sweep, rank all of it, and tell; returns how many runs failed.

    Raises:
        Stopped: by a signal; every run that was at work has saved.
    """
    begun = time.monotonic()
    points = plan.points()
    done = sum(point.state() == "done" for point in points)
    print(f"{plan.folder.name}: {len(points)} runs" + (f", {done} of them done" if done else ""), flush=True)
    line = Line(done)
    workers = Workers(command.call, command.limits, line.tell)
    received = workers.run(source)
    again = f"python {command.script} -m {shlex.quote(f'resume={RunFolder(plan.folder)}')}"
    line.say("")
    if received:
        done = sum(point.state() == "done" for point in points)
        text = f"Stopped and saved: {done} of {len(points)} runs are done. Go on with: {again}"
        raise Stopped(text, code=128 + received)
    print(conclude(plan.folder, points, command))
    for point, code in workers.failed.items():
        print(describe_failure(point, code))
    if workers.failed:
        print(f"Try those again with: {again}")
    print(f"{len(workers.seconds)} runs in {time.monotonic() - begun:.1f} s")
    return len(workers.failed)


def conclude(folder: Path, points: Sequence[Point], command: Command) -> str:
    """Rank runs, leave the ranking and the pictures in a folder, and return it in words."""
    rows = collect(points)
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
    where = [f"All of it:   {RunFolder(folder)}", f"TensorBoard: tensorboard --logdir {RunFolder(folder)}"]
    return "\n".join([to_text(table), "", marks, "", *lines, *where])


def write_pictures(folder: Path, rows: Sequence[Row], measure: Measure) -> None:
    """Draw the curves, and the map where there can be one."""
    draw_curves(rows, measure, folder / "curves.png")
    if len(rows[0].values) == 2:
        draw_map(rows, measure, folder / "map.png")
