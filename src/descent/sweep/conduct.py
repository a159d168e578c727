"""Runs what is missing from a sweep's plan, and then ranks all its runs."""

import shlex
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from descent.errors import Stopped, first_line
from descent.run.folder import RunFolder
from descent.run.signals import Signals
from descent.sweep.engines import run_apart
from descent.sweep.plan import STOP, Point, read_json
from descent.sweep.ranking import choose_measure, collect, list_figures, publish, rank, show

POLL = 0.1  # seconds between checks on the runs


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
        self.threads = self.config["threads"]  # "auto" until the first run reports them
        self.running: dict[Point, Any] = {}  # the active runs and their futures
        self.done, self.failed = 0, dict[Point, str]()  # how many, and which ones and why
        self.signals = Signals()
        tqdm.monitor_interval = 0  # no thread of its own, because runs are forked
        self.before = len(self.queue.all) - len(self.queue.waiting)  # runs that were done already
        total = self.before + self.queue.left()  # shown only on a terminal
        self.bar = tqdm(
            total=total, initial=self.before, unit="run", file=sys.stdout, disable=None, leave=False
        )

    def conduct(self) -> int:
        """Run what is missing, rank all runs, and return the exit code.

        Raises:
            Stopped: by a signal; every active run has saved.
        """
        begun, before, total = time.monotonic(), self.before, self.before + self.queue.left()
        print(
            f"{self.folder.name}: {total} runs" + (f", {before} of them done" if before else ""), flush=True
        )
        go_on = f"{self.command} -m {shlex.quote(f'resume={RunFolder(self.folder)}')}"
        if received := self.run():
            text = f"Stopped and saved: {before + self.done} of {total} runs are done"
            raise Stopped(f"{text}. Go on with: {go_on}", code=128 + received)
        good = self.conclude()
        for line in self.failed.values():
            print(line)
        if self.failed:
            print(f"Try those again with: {go_on}")
        print(f"{self.done} runs in {time.monotonic() - begun:.1f} s")
        return 0 if good and not self.failed else 1

    def run(self) -> int | None:
        """Run what is missing, and return the number of the signal that ended it early, if one did."""
        stop = self.folder / STOP
        stop.unlink(missing_ok=True)
        self.signals.catch()
        try:
            while self.running or (self.queue.left() and not self.signals.received):
                if not self.signals.received:
                    self._start()
                elif not stop.exists():
                    stop.touch()
                    for point, future in self.running.items():
                        if not point.is_live():  # it is waiting in its engine's queue
                            future.cancel()
                time.sleep(POLL)
                self._look()
                self.bar.set_postfix_str(f"{len(self.running)} running, {len(self.failed)} failed")
        finally:
            self.signals.release()
            self.bar.close()
        return self.signals.received

    def _start(self) -> None:
        """Start as many runs as there are free places."""
        while len(self.running) < self._count_places() and (point := self.queue.take()) is not None:
            try:
                self.running[point] = self.engine.submit(run_apart, point, *self.apart)
            except Exception as error:
                self._fail(point, first_line(error))

    def _count_places(self) -> int:
        if isinstance(self.config["jobs"], int):
            return self.config["jobs"]
        reports = [read_json(point.folder.environment) for point in self.running]
        if self.threads == "auto":
            self.threads = next((r["threads"] for r in reports if isinstance(r.get("threads"), int)), "auto")
        unknown = 1 if self.done or self.failed else None  # a run may end before the next check
        return self.engine.places(unknown if self.threads == "auto" else self.threads)

    def _look(self) -> None:
        """Check which runs have ended, and the progress of the others."""
        for point, future in list(self.running.items()):
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
                self.done += 1
                self.bar.update()
            elif not self.signals.received:
                self._fail(point, why or describe_end(point, code))

    def _fail(self, point: Point, why: str) -> None:
        self.failed[point] = f"failed: {point.name}: {why} (its output: {RunFolder(point.find_log())})"
        self.bar.write(self.failed[point])

    def conclude(self) -> bool:
        """Rank all runs, on the terminal and in the sweep's folder; return whether any could be ranked."""
        rows = collect(self.queue.all)
        if not rows:
            print("No run has come to its end.")
            return False
        measure = choose_measure(
            self.config["monitor"], self.config["mode"], rows[0].values, list_figures(rows)
        )
        if not (ranked := rank(rows, measure)):
            print(f"No run has {measure.metric}, the metric to rank by.")
            return False
        figures, chosen = ranked[0].by_repeat(measure.metric), min if measure.lower else max
        best = ranked[0].points[chosen(figures, key=figures.__getitem__)]
        typed = f"{self.command} {shlex.join(best.words)}"
        publish(ranked, measure, self.folder, f"\n```sh\n{typed}\n```\n")
        print(show(ranked, measure))
        if without := [row.name for row in rows if row not in ranked]:
            print(f"Without {measure.metric}: {'; '.join(without)}")
        if pruned := sum(point.state() == "pruned" for point in self.queue.all):
            print(f"Ended early: {pruned} runs")
        place = RunFolder(self.folder)
        print(f"\nBest run:    {typed}\nIts folder:  {best.folder}")
        print(f"All of it:   {place}\nTensorBoard: tensorboard --logdir {shlex.quote(str(place))}")
        return True


def describe_end(point: Point, code: int) -> str:
    """Return why a run failed: the signal that ended it, or the last line of its log."""
    if code < 0:
        return f"signal {-code} ended it"
    log = point.find_log()
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
