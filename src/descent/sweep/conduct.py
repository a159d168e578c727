"""Runs what is missing from a sweep's plan, and then ranks all its runs."""

import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from descent.sweep.plan import STOP, Point, read_json
from descent.sweep.ranking import choose_measure, collect, publish, rank, show

POLL = 0.1  # seconds between two looks at what the runs have come to
RARELY = 10.0  # seconds between two lines of progress where there is no terminal


class Queue:
    """A sweep's points, and those still to run; a search proposes them as it goes."""

    def __init__(self, points: Iterable[Point]) -> None:
        self.all = list(points)
        self.waiting = deque(point for point in self.all if not point.is_over())

    def left(self) -> int:
        """Return how many are still to come."""
        return len(self.waiting)

    def take(self) -> Point | None:
        """Return the next point to run; one left running by a killed sweep waits for its end."""
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
        """Check the progress of an active run."""

    def ended(self, point: Point, code: int) -> None:
        """Record the exit code of a run that has ended."""


@dataclass
class Sweeping:
    """A running sweep."""

    folder: Path
    queue: Queue
    engine: Any  # see `descent.sweep.engines`
    config: Mapping[str, Any]  # of one of the runs, plain values
    command: str  # as typed in this shell, such as `uv run python src/train.py`
    apart: tuple[list[str], str]  # the same as arguments, and the folder in which it was typed

    def __post_init__(self) -> None:
        jobs, threads = (self.config[key] for key in ("jobs", "threads"))
        self.jobs = jobs if isinstance(jobs, int) else None  # as many as the engine has places for
        self.threads = threads if isinstance(threads, int) else None  # as the first run reports
        self.running: dict[Point, tuple[Any, float]] = {}  # its future, and when it began
        self.seconds: list[float] = []  # that runs took which ended as they should
        self.failed: dict[Point, str] = {}  # and why
        self.signals, self.shown, self.terminal = Signals(), time.monotonic(), sys.stdout.isatty()

    def conduct(self, to_recipe: Callable[[Sequence[str], str], str]) -> int:
        """Run what is missing, rank all runs, and return the exit code.

        Args:
            to_recipe: makes a file of the group experiment of a run's words and a comment.

        Raises:
            Stopped: by a signal; every active run has saved.
        """
        begun, done = time.monotonic(), len(self.queue.all) - len(self.queue.waiting)
        total = done + self.queue.left()
        print(f"{self.folder.name}: {total} runs" + (f", {done} of them done" if done else ""), flush=True)
        go_on = f"{self.command} -m {shlex.quote(f'resume={RunFolder(self.folder)}')}"
        if received := self.run():
            text = f"Stopped and saved: {done + len(self.seconds)} of {total} runs are done"
            raise Stopped(f"{text}. Go on with: {go_on}", code=128 + received)
        good = self.conclude(to_recipe)
        print(*self.failed.values(), sep="\n", end="\n" * bool(self.failed))
        if self.failed:
            print(f"Try those again with: {go_on}")
        print(f"{len(self.seconds)} runs in {time.monotonic() - begun:.1f} s")
        return 0 if good and not self.failed else 1

    def run(self) -> int | None:
        """Run what is missing, and return the number of the signal that ended it early, if one did."""
        stop = self.folder / STOP
        stop.unlink(missing_ok=True)
        self.signals.catch()
        try:
            while self.running or (self.queue.left() and not self.signals.received):
                while not self.signals.received and len(self.running) < self._count_places():
                    if (point := self.queue.take()) is None:
                        break
                    self._start(point)
                if self.signals.received and not stop.exists():
                    stop.touch()
                    for point, (future, _) in self.running.items():
                        if not point.is_live():  # it waits in its engine's queue
                            future.cancel()
                time.sleep(POLL)
                self._look()
                self._show()
        finally:
            self.signals.release()
            self._say("")
        return self.signals.received

    def _count_places(self) -> int:
        if self.threads is None:
            reports = (read_json(point.folder.path / "environment.json") for point in self.running)
            found = [report["threads"] for report in reports if isinstance(report.get("threads"), int)]
            self.threads = found[0] if found else 1 if self.seconds or self.failed else None
        return self.jobs or self.engine.places(self.threads)

    def _start(self, point: Point) -> None:
        try:
            self.running[point] = self.engine.submit(run_apart, point, *self.apart), time.monotonic()
        except Exception as error:
            if not self.running and not self.seconds:  # it takes nothing
                raise ConfigError("executor", expected=f"one that runs this ({first_line(error)})") from error
            self.failed[point] = f"failed: {point.name}: {first_line(error)}"

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
                code, why = -1, " ".join(str(error).split())[:200]
            self.queue.ended(point, code)
            if point.is_over():
                self.seconds.append(time.monotonic() - begun)
            elif not self.signals.received:
                self.failed[point] = describe_failure(point, code, why)
                self._say(self.failed[point])

    def _show(self) -> None:
        """Show on one line how far all is: a terminal's stays up to date, elsewhere it comes now and then."""
        left, now = self.queue.left(), time.monotonic()
        text = f"{len(self.seconds)} done, {len(self.running)} running, {left} to come"
        text += f", {len(self.failed)} failed" if self.failed else ""
        if self.seconds and self.running:
            usual = mean(self.seconds)
            rest = sum(max(0.0, usual - (now - begun)) for _, begun in self.running.values())
            text += f", about {timedelta(seconds=round((left * usual + rest) / len(self.running)))} left"
        if self.terminal:
            print("\r\x1b[2K" + text[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        elif now - self.shown > RARELY:
            self.shown = now
            self._say(text)

    def _say(self, text: str) -> None:
        """Print a line in the place of the one that moves."""
        print(("\r\x1b[2K" if self.terminal else "") + text, flush=True)

    def conclude(self, to_recipe: Callable[[Sequence[str], str], str]) -> bool:
        """Rank all runs, in words and in the sweep's folder; return whether any could be ranked."""
        place, rows = RunFolder(self.folder), collect(self.queue.all)
        if not rows:
            print("No run has come to its end.")
            return False
        figures = next(iter(rows[0].figures.values()))
        measure = choose_measure(self.config["monitor"], self.config["mode"], rows[0].values, figures)
        if not (ranked := rank(rows, measure)):
            print(
                f"No run has {measure.metric}, by which they would be ranked; there is {', '.join(figures)}."
            )
            return False
        best = ranked[0].find_best(measure)
        typed = f"{self.command} {shlex.join(best.words)}"
        publish(ranked, measure, self.folder, f"\n```sh\n{typed}\n```\n")
        (self.folder / "experiment").mkdir(exist_ok=True)
        recipe = to_recipe(best.words, f"the best of {self.folder.name} by {measure.metric}")
        write_text(self.folder / "experiment" / "best.yaml", recipe)
        print(show(ranked, measure))
        if without := [row.name for row in rows if row not in ranked]:
            print(f"Without {measure.metric}: {'; '.join(without)}")
        if pruned := sum(point.state() == "pruned" for point in self.queue.all):
            print(f"Ended early: {pruned} runs")
        print(f"\nBest run:    {typed}\nIts folder:  {best.folder}")
        print(f"As a recipe: {self.command} --config-dir {shlex.quote(str(place))} experiment=best")
        print(f"All of it:   {place}\nTensorBoard: tensorboard --logdir {shlex.quote(str(place))}")
        return True


def describe_failure(point: Point, code: int, why: str) -> str:
    """Return in a line which run failed and why."""
    log = point.find_log()
    if not why and code < 0:
        why = f"signal {-code} ended it"
    elif not why and log.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        why = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"failed: {point.name}: {why} (its output: {RunFolder(log)})"
