"""A sweep from its plan to its answer: what is missing is run, and then all is ranked."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import mean

from descent.errors import ConfigError, Stopped
from descent.run.atomic import write_text
from descent.run.folder import RunFolder
from descent.sweep.pictures import draw
from descent.sweep.plan import Plan, Point, Source
from descent.sweep.ranking import (
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
from descent.sweep.workers import Call, Limits, Workers

RARELY = 10.0  # seconds between two lines of progress where there is no terminal


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
            usual, now = mean(workers.seconds), time.monotonic()
            rest = sum(max(0.0, usual - (now - worker.begun)) for worker in workers.running)
            left = (workers.waiting * usual + rest) / max(1, len(workers.running))
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
    """Return in a line which run failed and why."""
    log, why = point.folder.log, f"signal {-code} ended it"
    if code > 0:
        said = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        why = next((line.strip() for line in reversed(said) if line.strip()), "")
    return f"failed: {point.name}: {why} (all it said: {RunFolder(log)})"


@dataclass
class Command:
    """How runs are started.

    Attributes:
        call: runs a command line; see `Workers`.
        limits: of what runs at the same time.
        launch: has something else run points, and waits for them; None where they are run here.
        batch: how many points that gets at a time.
        monitor, mode: what runs look at.
        script: the command, as typed.
        to_recipe: makes a file of the group experiment of a run's words and a comment.
    """

    call: Call
    limits: Limits
    launch: Callable[[list[Point]], None] | None
    batch: int
    monitor: str
    mode: str
    script: str
    to_recipe: Callable[[Sequence[str], str], str]


def conduct(plan: Plan, source: Source, command: Command) -> int:
    """Run what is missing of a sweep, rank all of it, tell, and return how many runs failed.

    Raises:
        Stopped: by a signal; every run that was at work has saved.
    """
    begun, done = time.monotonic(), sum(point.is_over() for point in plan.points())
    total = done + source.left()
    print(f"{plan.folder.name}: {total} runs" + (f", {done} of them done" if done else ""), flush=True)
    go_on = f"python {command.script} -m {shlex.quote(f'resume={RunFolder(plan.folder)}')}"
    lenient, pruned = "epochs" in plan.search, 0
    if command.launch is not None:
        failed = launch_batches(source, command.launch, command.batch)
    else:
        line = Line(done, lenient)
        workers = Workers(command.call, command.limits, line.tell)
        received = workers.run(source)
        line.say("")
        if received:
            done = sum(point.is_over() for point in plan.points())
            text = f"Stopped and saved: {done} of {total} runs are done. Go on with: {go_on}"
            raise Stopped(text, code=128 + received)
        failed, pruned = workers.failed, workers.pruned
    print(conclude(plan, command))
    if pruned:
        print(f"{pruned} runs were ended early")
    failed = {} if lenient else failed
    for point, code in failed.items():
        print(describe_failure(point, code))
    if failed:
        print(f"Try those again with: {go_on}")
    ended = sum(point.is_over() for point in plan.points()) - done - pruned
    print(f"{ended} runs in {time.monotonic() - begun:.1f} s")
    return len(failed)


def launch_batches(source: Source, launch: Callable[[list[Point]], None], size: int) -> dict[Point, int]:
    """Have something else run what a source has, and return what is not done, as of `Workers.failed`.

    Raises:
        ConfigError: not one run was started.
    """
    failed: dict[Point, int] = {}
    while points := list(filter(None, (source.take() for _ in range(min(size, source.left()))))):
        try:
            launch(points)
        except ConfigError as error:  # it has lost one of its jobs, or takes no such words
            if all(point.state() == "missing" for point in points):
                raise
            print(error.line({}))
        for point in points:
            source.ended(point)
        failed |= {point: 1 for point in points if not point.is_over()}
    return failed


def conclude(plan: Plan, command: Command) -> str:
    """Rank runs, leave the ranking and the pictures in the sweep's folder, and return it in words."""
    rows, folder, place = collect(plan.points()), plan.folder, RunFolder(plan.folder)
    if not rows:
        return "No run has come to its end."
    figures = next(iter(rows[0].figures.values()))
    measure = choose_measure(command.monitor, command.mode, rows[0].values, figures)
    ranked = rank(rows, measure)
    if not ranked:
        return f"No run has {measure.metric}."
    best = ranked[0].find_best(measure)
    typed = f"python {command.script} {shlex.join(best.words)}"
    table, marks = tabulate(ranked, measure), explain_marks(ranked, measure)
    recipe = folder / "experiment" / "best.yaml"
    recipe.parent.mkdir(exist_ok=True)
    write_text(folder / "ranking.csv", to_csv(ranked))
    write_text(folder / "ranking.md", f"{to_markdown(table)}\n{marks}\n\n```sh\n{typed}\n```\n")
    write_text(recipe, command.to_recipe(best.words, f"the best of {folder.name} by {measure.metric}"))
    draw(ranked, measure, folder)
    lines = [to_text(table), "", marks, ""]
    if RATE in plan.values and "epochs" in plan.search:
        values = {float(row.values[RATE]): mean(row.of(measure.metric)) for row in ranked}
        rate = suggest_rate(values, [float(rate) for rate in plan.values[RATE]], measure.lower)
        lines.append(f"Suggestion:  {RATE}={rate:g}, the best together with its neighbours")
    lines += [
        f"Best run:    {typed}",
        f"Its folder:  {best.folder}",
        f"As a recipe: python {command.script} --config-dir {place} experiment=best",
        f"All of it:   {place}",
        f"TensorBoard: tensorboard --logdir {place}",
    ]
    return "\n".join(lines)
