"""Search: trials that Optuna proposes one after another, based on the results of earlier ones.

Its journal in the sweep's folder is the state. Each proposal has its own sampler, seeded by the run's seed
and the trial's number, so a killed search continues with the proposals that it would have made.
"""

import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descent.cli.overrides import parse
from descent.errors import ConfigError, first_line, require
from descent.sweep.conduct import Queue
from descent.sweep.pictures import read_curve
from descent.sweep.plan import PRUNED, Plan, Point
from descent.sweep.ranking import best_figures

BOARD = "optuna.log"
DIGITS = 4  # of a drawn number, so that it can be typed again


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, evenly or evenly over their logarithms."""

    low: float
    high: float
    log: bool

    def write(self, value: float) -> str:
        """Return a number as it can be typed."""
        if isinstance(self.low, int):
            return str(min(max(round(value), self.low), round(self.high)))
        return str(min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high))

    def distribute(self) -> Any:
        """Return what Optuna calls it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        kind = IntDistribution if isinstance(self.low, int) else FloatDistribution
        return kind(self.low, self.high, log=self.log)  # type: ignore[arg-type]


def read_range(key: str, text: str) -> Range | None:
    """Return an interval of Hydra's, such as `tag(log,interval(1e-4,1))` or `int(interval(1,8))`, or None."""
    override = parse(f"{key}={text}")
    if not override.is_sweep_override() or override.is_discrete_sweep():
        return None
    interval = override.value()
    log, low, high = "log" in interval.tags, interval.start, interval.end
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    good = numbers and (0 if log else -math.inf) < low < high < math.inf
    require(good, key, text, "an interval from a lower to a higher number")
    return Range(low, high, log)


def divide(interval: Range, steps: int) -> list[str]:
    """Return this many equally spaced values, including both ends: what a grid tries."""
    require(isinstance(steps, int) and steps >= 2, "search.steps", steps, "a whole number of at least 2")
    turn, back = (math.log, math.exp) if interval.log else (float, float)
    low, high = turn(interval.low), turn(interval.high)
    values = [back(low + (high - low) * step / (steps - 1)) for step in range(steps)]
    return list(dict.fromkeys(map(interval.write, values)))


class Search(Queue):
    """The trials of a search: those already begun, and then the proposals of an Optuna sampler.

    `sampler` makes one from a seed, and `pruner` ends trials early.
    """

    def __init__(
        self, sampler: Callable[..., Any], pruner: Any, plan: Plan, trials: int, seed: int, monitor: str,
        mode: str,
    ) -> None:  # fmt: skip
        import optuna
        from optuna.storages import JournalStorage, journal

        super().__init__([])
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.sampler, self.plan, self.wanted, self.seed, self.monitor = sampler, plan, trials, seed, monitor
        self.space = {key: read_range(key, texts[0]) or texts for key, texts in plan.values.items()}
        self.trials: dict[Point, Any] = {}
        file = str(plan.folder / BOARD)
        Path(f"{file}.lock").unlink(missing_ok=True)  # of a sweep that was killed; this one is alone
        try:
            storage = JournalStorage(journal.JournalFileBackend(file, journal.JournalFileOpenLock(file)))
            self.study = optuna.create_study(
                storage=storage, study_name="sweep", load_if_exists=True, pruner=pruner,
                direction="minimize" if mode == "min" else "maximize",
            )  # fmt: skip
            before, study = self.study.trials, storage.get_study_id_from_name("sweep")
        except Exception as error:  # a damaged one makes Optuna raise anything
            raise ConfigError(file, expected=f"an Optuna journal ({first_line(error)})") from error
        for found in before:
            identity = storage.get_trial_id_from_study_id_trial_number(study, found.number)
            point = self._add(optuna.trial.Trial(self.study, identity))
            if not found.state.is_finished():  # its run may have ended before that could be recorded
                self.waiting.append(point)

    def _add(self, trial: Any) -> Point:
        """Return the run of a trial, whose journal may come from elsewhere."""
        values = {}
        for key, part in self.space.items():
            value = trial.params.get(key)
            good = isinstance(value, int | float) if isinstance(part, Range) else value in part
            require(good, str(self.plan.folder / BOARD), f"{key}={value}", "values of this search")
            values[key] = part.write(value) if isinstance(part, Range) else str(value)
        point = self.plan.point(values, trial.number)
        self.all.append(point)
        self.trials[point] = trial
        return point

    def left(self) -> int:
        return len(self.waiting) + max(0, self.wanted - len(self.all))

    def take(self) -> Point | None:
        from optuna.distributions import CategoricalDistribution

        if (point := super().take()) is not None or self.waiting or not self.left():
            return point
        seed = random.Random(f"{self.seed} {len(self.all)}").getrandbits(31)
        self.study.sampler = self.sampler(seed=seed)
        parts = self.space.items()
        space = {k: p.distribute() if isinstance(p, Range) else CategoricalDistribution(p) for k, p in parts}
        return self._add(self.study.ask(space))

    def look(self, point: Point) -> None:
        """Report a run's epochs so far, and mark the run if the pruner ends it."""
        trial = self.trials[point]
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for epoch, value in read_curve(point.folder, self.monitor).items():
            if int(epoch) not in known:
                trial.report(value, int(epoch))
                if trial.should_prune():
                    (point.folder.path / PRUNED).touch()

    def ended(self, point: Point, code: int) -> None:
        """Report a run: a failed one counts as the worst, a killed one runs again."""
        from optuna.trial import TrialState

        value = best_figures(point.folder).get(self.monitor)
        if point.state() == "done" and value is not None:
            self.study.tell(self.trials[point], value)
        elif point.is_over() or 0 < code < 128:
            self.study.tell(self.trials[point], state=TrialState.PRUNED)
