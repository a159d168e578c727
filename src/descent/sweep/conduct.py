"""Runs what is missing from a sweep's plan, and then ranks all its runs."""

import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from descent.callbacks.figures import fit_terminal
from descent.errors import Stopped, first_line
from descent.run.atomic import write_text
from descent.run.folder import RunFolder, command
from descent.run.signals import Signals
from descent.sweep.engines import run_apart
from descent.sweep.plan import STOP, Point, read_json
from descent.sweep.ranking import choose_measure, collect, list_figures, rank

POLL = 0.1  # seconds between two checks on the runs
RARELY = 10.0  # seconds between two lines of progress if there is no terminal


class Queue:
    """A sweep's points, and those still to run; a search proposes them as it goes."""

    def __init__(self, points: Iterable[Point]) -> None:
        self.all = list(points)
        self.waiting = [point for point in self.all if not point.is_over()]

    def left(self) -> int:
        """Return how many are still to come."""
        return len(self.waiting)

    def take(self) -> Point | None:
        """Return the next point to run; one left running by a killed sweep waits for its end."""
        while (point := next((p for p in self.waiting if not p.is_live()), None)) is not None:
            self.waiting.remove(point)
            if not point.is_over():
                break
            self.ended(point, 0)
        return point

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
    script: Path  # the command that trains one

    def __post_init__(self) -> None:
        self.command = command(f"python {os.path.relpath(self.script)}")  # as typed in this shell
        self.threads = self.config["threads"] if isinstance(self.config["threads"], int) else None  # of a run
        self.running: dict[Point, Any] = {}  # their futures
        self.failed: dict[Point, str] = {}  # and why
        self.before, self.done = len(self.queue.all) - len(self.queue.waiting), 0  # runs that have ended well
        self.signals = Signals()

    def conduct(self) -> int:
        """Run what is missing, rank all runs, and return the exit code; raise Stopped after a signal."""
        begun, total = time.monotonic(), self.before + self.queue.left()
        before = f", {self.before} of them done" if self.before else ""
        print(f"{self.folder.name}: {total} runs{before}", flush=True)
        go_on = f"{self.command} -m {shlex.quote(f'resume={RunFolder(self.folder)}')}"
        if received := self.run():
            text = f"Stopped and saved: {self.before + self.done} of {total} runs are done"
            raise Stopped(f"{text}. Continue with: {go_on}", code=128 + received)
        good = self.conclude()
        if self.failed:
            print(*self.failed.values(), f"Retry them with: {go_on}", sep="\n")
        print(f"{self.done} runs in {time.monotonic() - begun:.1f} s")
        return 0 if good and not self.failed else 1

    def run(self) -> int | None:
        """Run what is missing, and return the number of the signal that ended it early, if one did."""
        stop, total = self.folder / STOP, self.before + self.queue.left()
        stop.unlink(missing_ok=True)
        self.signals.catch()
        tqdm.monitor_interval = 0  # without a thread, because runs are forked from this process
        bar = tqdm(
            total=total, initial=self.before, unit="run", file=sys.stdout, leave=False, dynamic_ncols=True,
            disable=not sys.stdout.isatty(),
        )  # fmt: skip
        shown = time.monotonic()
        try:
            while self.running or (self.queue.left() and not self.signals.received):
                if not self.signals.received:
                    self._start()
                elif not stop.exists():
                    stop.touch()
                    for point, future in self.running.items():
                        if not point.is_live():  # it waits in its engine's queue
                            future.cancel()
                time.sleep(POLL)
                self._look()
                state = f"{len(self.running)} running, {len(self.failed)} failed"
                bar.n = total - self.queue.left() - len(self.running)
                bar.set_postfix_str(state)  # which draws it
                if bar.disable and time.monotonic() - shown > RARELY:
                    shown = time.monotonic()
                    print(f"{self.before + self.done} of {total} runs done, {state}", flush=True)
        finally:
            self.signals.release()
            bar.close()
        return self.signals.received

    def _start(self) -> None:
        """Start as many runs as there is room for."""
        apart = [sys.executable, str(self.script)], str(Path.cwd())
        while len(self.running) < self._count_places() and (point := self.queue.take()) is not None:
            try:
                self.running[point] = self.engine.submit(run_apart, point, *apart)
            except Exception as error:  # a cluster that takes no more
                self.failed[point] = f"failed: {point.name}: {first_line(error)}"

    def _count_places(self) -> int:
        if isinstance(self.config["jobs"], int):
            return self.config["jobs"]
        if self.threads is None:  # as many as the first run reports
            reports = [read_json(point.folder.environment).get("threads") for point in self.running]
            self.threads = next(filter(None, reports), 1 if self.done or self.failed else None)
        return self.engine.places(self.threads)

    def _look(self) -> None:
        """Check which runs have ended, and how far the others are."""
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
            elif not self.signals.received:
                why = why or (f"signal {-code} ended it" if code < 0 else point.last_line())
                log = RunFolder(point.find_log())
                self.failed[point] = fit_terminal(f"failed: {point.name}: {why} (its output: {log})")
                tqdm.write(self.failed[point])

    def conclude(self) -> bool:
        """Rank all runs, in words and in the sweep's folder; return whether any could be ranked."""
        from descent.cli.sweeping import to_recipe
        from descent.sweep.tables import publish, show

        rows = collect(self.queue.all)
        measure = choose_measure(self.config, rows)
        if not (ranked := rank(rows, measure)):
            there = ", ".join(list_figures(rows)) or "nothing, because none has finished"
            print(f"No run has {measure.metric}, which ranks them; they have {there}")
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
        place = shlex.quote(str(RunFolder(self.folder)))
        print(f"\nBest run:    {typed}\nIts folder:  {best.folder}")
        print(f"As a recipe: {self.command} --config-dir {place} experiment=best")
        print(f"Everything:  {place}\nTensorBoard: {command(f'tensorboard --logdir {place}')}")
        return True
