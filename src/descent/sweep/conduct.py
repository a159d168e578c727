"""A sweep from its plan to its answer: what is missing is run, and then all is ranked."""

import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any

from descent.errors import ConfigError, Stopped, first_line
from descent.run.atomic import write_text
from descent.run.folder import RunFolder
from descent.run.signals import Signals
from descent.sweep.engines import run_apart
from descent.sweep.plan import STOP, Plan, Point, read_json, within
from descent.sweep.ranking import choose_measure, collect, explain, publish, rank, tabulate, to_text

POLL = 0.1  # seconds between two looks at what the runs have come to
RARELY = 10.0  # seconds between two lines of progress where there is no terminal


class Queue:
    """The points of a sweep, and those of them that are still to be run.

    Attributes:
        all: the points, in their order.
        waiting: to be run. One that a sweep that was killed has left at work waits for its end.
    """

    def __init__(self, points: Iterable[Point]) -> None:
        self.all = list(points)
        self.waiting = deque(point for point in self.all if not point.is_over())

    def left(self) -> int:
        """Return how many are to come."""
        return len(self.waiting)

    def take(self) -> Point | None:
        """Return the next point to run, if there is one now."""
        for _ in range(len(self.waiting)):
            point = self.waiting.popleft()
            if point.is_live():
                self.waiting.append(point)
            elif point.is_over():
                self.ended(point, 0)
            else:
                return point
        return None

    def look(self, point: Point) -> None:
        """See how far a run has come that is at work."""

    def ended(self, point: Point, code: int) -> None:
        """Learn that a run has ended."""


class Line:
    """One line on all runs: on a terminal it stays up to date, elsewhere it comes again now and then."""

    def __init__(self) -> None:
        self.at, self.terminal = time.monotonic(), sys.stdout.isatty()

    def show(self, text: str) -> None:
        """Show how far it is."""
        if self.terminal:
            sys.stdout.write("\r\x1b[2K" + text[: shutil.get_terminal_size().columns - 1])
            sys.stdout.flush()
        elif time.monotonic() - self.at > RARELY:
            self.at = time.monotonic()
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line in the place of the one that moves."""
        print(("\r\x1b[2K" if self.terminal else "") + text, flush=True)


class Conductor:
    """Runs the points of a queue on an engine, and knows what came of them.

    Args:
        queue: of the sweep.
        engine: has `places(threads)` and `submit(run, point, command, place)`.
        jobs: runs at a time; None for as many as there are places.
        threads: of a run; None for what the first one reports.
        apart: the command of a run elsewhere, and the folder in which it was typed.
    """

    def __init__(
        self, queue: Queue, engine: Any, jobs: int | None, threads: int | None, apart: tuple[list[str], str]
    ) -> None:
        self.queue, self.engine, self.jobs, self.threads, self.apart = queue, engine, jobs, threads, apart
        self.running: dict[Point, tuple[Any, float]] = {}  # its future, and when it began
        self.seconds: list[float] = []  # that runs took
        self.failed: dict[Point, str] = {}  # and why
        self.signals, self.line = Signals(), Line()

    def run(self, stop: Path) -> int | None:
        """Run all points, and return the number of the signal that ended it before, if one did.

        Args:
            stop: a file that asks all runs to save and end.
        """
        stop.unlink(missing_ok=True)
        self.signals.catch()
        try:
            while True:
                while not self.signals.received and len(self.running) < self._count_places():
                    if (point := self.queue.take()) is None:
                        break
                    self._start(point)
                if not self.running and (self.signals.received or not self.queue.left()):
                    return self.signals.received
                if self.signals.received and not stop.exists():
                    stop.touch()
                    for point, (future, _) in self.running.items():
                        if not point.is_live():  # it waits in the queue of its engine
                            future.cancel()
                time.sleep(POLL)
                self._look()
                self.line.show(self._describe())
        finally:
            self.signals.release()

    def _start(self, point: Point) -> None:
        try:
            future = self.engine.submit(run_apart, point, *self.apart)
        except Exception as error:
            if not self.running and not self.seconds:  # it takes nothing
                raise ConfigError("executor", expected=f"one that runs this ({first_line(error)})") from error
            self.failed[point] = f"failed: {point.name}: {first_line(error)}"
        else:
            self.running[point] = future, time.monotonic()

    def _count_places(self) -> int:
        if self.threads is None:
            reports = (read_json(point.folder.path / "environment.json") for point in self.running)
            found = [report["threads"] for report in reports if isinstance(report.get("threads"), int)]
            self.threads = found[0] if found else 1 if self.seconds or self.failed else None
        return self.jobs or self.engine.places(self.threads)

    def _look(self) -> None:
        """See which runs have ended, and what the others have come to."""
        for point, (future, begun) in list(self.running.items()):
            if not future.done():
                self.queue.look(point)
                continue
            del self.running[point]
            try:
                code, why = future.result(), ""
            except Exception as error:  # the engine has lost it
                code, why = -1, first_line(error)
            self.queue.ended(point, code)
            if point.is_over():
                self.seconds.append(time.monotonic() - begun)
            elif not self.signals.received:
                self.failed[point] = describe_failure(point, code, why)
                self.line.say(self.failed[point])

    def _describe(self) -> str:
        """Return how far it is."""
        left, now = self.queue.left(), time.monotonic()
        text = f"{len(self.seconds)} done, {len(self.running)} running, {left} to come"
        text += f", {len(self.failed)} failed" if self.failed else ""
        if self.seconds and self.running:
            usual = mean(self.seconds)
            rest = sum(max(0.0, usual - (now - begun)) for _, begun in self.running.values())
            text += f", about {timedelta(seconds=round((left * usual + rest) / len(self.running)))} left"
        return text


def describe_failure(point: Point, code: int, why: str) -> str:
    """Return in a line which run failed and why."""
    log = point.find_log()
    if not why and code < 0:
        why = f"signal {-code} ended it"
    elif not why and log.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        why = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"failed: {point.name}: {why} (its output: {RunFolder(log)})"


@dataclass
class Answer:
    """How a sweep tells what came of it.

    Attributes:
        monitor, mode: what runs look at.
        command: as a person types it in this shell, such as `uv run python src/train.py`.
        to_recipe: makes a file of the group experiment of a run's words and a comment.
    """

    monitor: str
    mode: str
    command: str
    to_recipe: Callable[[Sequence[str], str], str]

    def conclude(self, plan: Plan, points: Iterable[Point]) -> tuple[str, bool]:
        """Rank runs, leave the ranking in the sweep's folder; return it in words, and whether there is one."""
        rows, place = collect(points), RunFolder(plan.folder)
        if not rows:
            return "No run has come to its end.", False
        figures = next(iter(rows[0].figures.values()))
        measure = choose_measure(self.monitor, self.mode, rows[0].values, figures)
        if not (ranked := rank(rows, measure)):
            known = ", ".join(figures) or "none"
            return f"No run has {measure.metric}, by which they would be ranked; there is {known}.", False
        best = ranked[0].find_best(measure)
        typed = f"{self.command} {shlex.join(best.words)}"
        publish(ranked, measure, plan.folder, f"\n```sh\n{typed}\n```\n")
        recipe = within(plan.folder, "experiment/best.yaml")
        recipe.parent.mkdir(exist_ok=True)
        write_text(recipe, self.to_recipe(best.words, f"the best of {place.path.name} by {measure.metric}"))
        without = [row.name for row in rows if row not in ranked]
        lines = [
            to_text(tabulate(ranked, measure), len(ranked[0].values)),
            f"\n{explain(ranked, measure)}",
            *([f"Without {measure.metric}: {'; '.join(without)}"] if without else []),
            f"\nBest run:    {typed}",
            f"Its folder:  {best.folder}",
            f"As a recipe: {self.command} --config-dir {shlex.quote(str(place))} experiment=best",
            f"All of it:   {place}",
            f"TensorBoard: tensorboard --logdir {shlex.quote(str(place))}",
        ]
        return "\n".join(lines), True


def conduct(plan: Plan, conductor: Conductor, answer: Answer) -> int:
    """Run what is missing of a sweep, rank all of it, and return the exit code.

    Raises:
        Stopped: by a signal; every run that was at work has saved.
    """
    begun, queue = time.monotonic(), conductor.queue
    total, done = len(queue.all) + queue.left() - len(queue.waiting), len(queue.all) - len(queue.waiting)
    print(f"{plan.folder.name}: {total} runs" + (f", {done} of them done" if done else ""), flush=True)
    go_on = f"{answer.command} -m {shlex.quote(f'resume={RunFolder(plan.folder)}')}"
    received = conductor.run(within(plan.folder, STOP))
    conductor.line.say("")
    ended = len(conductor.seconds)
    if received:
        text = f"Stopped and saved: {done + ended} of {total} runs are done. Go on with: {go_on}"
        raise Stopped(text, code=128 + received)
    text, good = answer.conclude(plan, queue.all)
    print(text)
    if pruned := sum(point.state() == "pruned" for point in queue.all):
        print(f"{pruned} runs were ended early")
    for line in conductor.failed.values():
        print(line)
    if conductor.failed:
        print(f"Try those again with: {go_on}")
    print(f"{ended} runs in {time.monotonic() - begun:.1f} s")
    return 0 if good and not conductor.failed else 1
