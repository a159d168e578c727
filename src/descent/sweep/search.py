"""Search: trials that are proposed one after another, by what came of those before.

All that a search knows is in its runs' folders, so one that was killed goes on with what it would have
proposed: each proposal has a random generator of its own, made of the seed and the trial's number.
"""

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from statistics import mean
from typing import Any, Literal

from descent.errors import require
from descent.sweep.pictures import read_curve, read_metrics
from descent.sweep.plan import Plan, Point, Source, best_figures, read_result
from descent.sweep.ranking import Measure, choose_measure

RATE = "optimizer.lr"
BOARD = "optuna.log"  # in a sweep's folder: a study of Optuna's
DIGITS = 4  # of a number that is drawn, so that it can be typed again


@dataclass
class Settings:
    """How trials are chosen, and which of them end early; the fields of conf/search.

    Args:
        sampler: "random", or "tpe" by Optuna.
        startup: trials that are drawn at random before the sampler begins.
        reduction: of the trials that have come to epoch 1, r, r², …, one in r goes on; None: all do.
    """

    sampler: Literal["random", "tpe"]
    startup: int
    reduction: int | None

    def __post_init__(self) -> None:
        require(self.startup >= 1, "startup", self.startup, "a whole number of at least 1")
        enough = self.reduction is None or self.reduction >= 2
        require(enough, "reduction", self.reduction, "null, or a whole number of at least 2")
        usable = self.sampler == "random" or find_spec("optuna") is not None
        require(usable, "sampler", self.sampler, "random, or Optuna installed: uv sync --extra search")


@dataclass
class Grid:
    """Every combination of values, with ranges cut into steps.

    Args:
        steps: values of a range, its ends included.
    """

    steps: int

    def __post_init__(self) -> None:
        require(self.steps >= 2, "steps", self.steps, "a whole number of at least 2")


@dataclass
class Rates:
    """Short runs that show which learning rates an optimizer takes here.

    Each rate has a run of its own, which begins anew: what is compared is where they come to in the same
    time, and not the slope of one run whose rate grows, which noise decides.

    Args:
        low, high: of the learning rates, evenly over their logarithms.
        steps: how many.
        epochs: that each is tried for.
    """

    low: float
    high: float
    steps: int
    epochs: int

    def __post_init__(self) -> None:
        require(self.low > 0, "low", self.low, "a number above 0")
        require(self.high > self.low, "high", self.high, "a number above search.low")
        require(self.steps >= 3, "steps", self.steps, "a whole number of at least 3")
        require(self.epochs >= 1, "epochs", self.epochs, "a whole number of at least 1")


def suggest_rate(values: Mapping[float, float], tried: Sequence[float], lower: bool) -> float | None:
    """Return the rate that is best by the mean of its value and its neighbours'; None where there is none.

    Args:
        values: what runs came to, by rate.
        tried: all rates; one without a value, whose run has failed, counts as the worst.
        lower: whether lower values are better.
    """
    if not values:
        return None
    signed = {rate: value if lower else -value for rate, value in values.items()}
    worst, rates = max(signed.values()), sorted(tried)
    found = [signed.get(rate, worst) for rate in rates]
    found = [found[0], *found, found[-1]]
    smooth = {rate: mean(found[place : place + 3]) for place, rate in enumerate(rates) if rate in signed}
    return min(smooth, key=smooth.__getitem__)


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, evenly or evenly over their logarithms; `text` is as typed."""

    low: float
    high: float
    log: bool
    whole: bool
    text: str = ""

    def draw(self, chance: random.Random) -> float:
        """Return one of them at random."""
        return self.find(chance.random())

    def divide(self, steps: int) -> list[float]:
        """Return as many of them at equal distances, the ends included."""
        return list(dict.fromkeys(self.find(step / (steps - 1)) for step in range(steps)))

    def find(self, share: float) -> float:
        """Return the number that so large a share of the way from `low` to `high` leads to."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return self.keep(math.exp(low + (high - low) * share))
        return self.keep(self.low + (self.high - self.low) * share)

    def keep(self, value: float) -> float:
        """Return the number as it can be typed."""
        if self.whole:
            return min(max(round(value), round(self.low)), round(self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


Space = Mapping[str, Range | list[str]]


class Search(Source):
    """The source of a search's trials.

    Args:
        plan: of the sweep, whose folder holds the trials that there are.
        settings: how it searches.
        space: what each key is drawn from.
        trials: how many in all.
        look: what runs monitor, and its mode.
    """

    def __init__(
        self, plan: Plan, settings: Settings, space: Space, trials: int, look: tuple[str, str]
    ) -> None:
        self.plan, self.settings, self.space, self.trials, self.look = plan, settings, space, trials, look
        self.seed = next((word for word in plan.words if word.startswith("seed=")), "seed=0")
        self.points = plan.trials()
        super().__init__(self.points.values())
        self.at_work: set[Point] = set()
        self.rungs: dict[Point, int] = {}  # the epoch at which a trial is looked at next
        self.measure: Measure | None = None
        self.board: Any = None  # the study that optuna-dashboard opens
        self.to_show: list[Point] = []
        for point in self.points.values():
            if point.is_over():
                self._show(point)

    def take(self) -> Point | None:
        """Return a trial that was begun, or the next one."""
        point = super().take()
        if point is None and len(self.points) < self.trials:
            point = self._propose()
        if point is not None:
            self.at_work.add(point)
        return point

    def _propose(self) -> Point:
        """Return the next trial, of the first number that is free."""
        number = next(number for number in count() if number not in self.points)
        chance = random.Random(f"{self.seed} {number}")
        if self.settings.sampler == "random" or number < self.settings.startup:
            values = {
                key: space.draw(chance) if isinstance(space, Range) else chance.choice(space)
                for key, space in self.space.items()
            }
        else:
            values = self._ask(chance.randrange(2**32))
        point = self.plan.trial(number, {key: str(value) for key, value in values.items()})
        self.points[number] = point
        return point

    def left(self) -> int:
        """Return how many trials are still to be taken."""
        return max(0, self.trials - len(self.points)) + super().left()

    def ended(self, point: Point) -> None:
        """Learn that a trial is no longer at work."""
        self.at_work.discard(point)
        self._show(point)

    def is_hopeless(self, point: Point) -> bool:
        """Return whether a trial is not among the best of those that have come as far."""
        if self.settings.reduction is None or not (measure := self._find_measure(point)):
            return False
        best = min if measure.lower else max
        values = read_curve(point.folder, measure.metric)[1]
        rung = self.rungs.get(point, 1)
        while rung <= len(values):
            self.rungs[point] = rung * self.settings.reduction
            curves = [read_curve(other.folder, measure.metric)[1] for other in self.points.values()]
            reached = [best(curve[:rung]) for curve in curves if len(curve) >= rung]
            reached.sort(reverse=not measure.lower)
            last = reached[max(1, len(reached) // self.settings.reduction) - 1]
            mine = best(values[:rung])
            if mine != best(mine, last):
                return True
            rung = self.rungs[point]
        return False

    def _find_measure(self, point: Point) -> Measure | None:
        """Return what trials are compared by, once one of them has come to a figure."""
        if self.measure is None and (rows := read_metrics(point.folder)):
            self.measure = choose_measure(*self.look, self.space, rows[0])
        return self.measure

    def _value(self, point: Point) -> float | None:
        """Return what came of a trial; None if it has not ended as it should."""
        measure = self._find_measure(point)
        if measure is None or point.state() != "done":
            return None
        return best_figures(read_result(point.folder)).get(measure.metric)

    def _ask(self, seed: int) -> dict[str, Any]:
        """Return what Optuna proposes, whose study is made anew of what the folders hold."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=1, multivariate=True, constant_liar=True
        )
        trials = [self._to_trial(point) for _, point in sorted(self.points.items())]
        lower = self.measure is None or self.measure.lower
        study = optuna.create_study(direction="minimize" if lower else "maximize", sampler=sampler)
        study.add_trials(trials)
        found = study.ask({key: to_distribution(space) for key, space in self.space.items()}).params
        return {k: s.keep(found[k]) if isinstance(s, Range) else found[k] for k, s in self.space.items()}

    def _to_trial(self, point: Point, **more: Any) -> Any:
        """Return a trial as Optuna knows it."""
        from optuna.trial import TrialState, create_trial

        value = self._value(point)
        state = TrialState.COMPLETE if value is not None else TrialState.PRUNED  # as the worst, if it failed
        return create_trial(
            params={key: read_value(self.space[key], text) for key, text in point.values.items()},
            distributions={key: to_distribution(space) for key, space in self.space.items()},
            value=value,
            state=TrialState.RUNNING if point in self.at_work else state,
            **more,
        )

    def _show(self, point: Point) -> None:
        """Add a trial that has ended to a file that optuna-dashboard opens, and that is never read here."""
        self.to_show.append(point)
        measure = self._find_measure(point)
        if measure is None or not find_spec("optuna"):
            return
        import optuna
        from optuna.storages import journal

        if self.board is None:  # made anew of what the folders hold
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            file = self.plan.folder / BOARD
            file.unlink(missing_ok=True)
            backend = journal.JournalFileBackend(str(file), journal.JournalFileOpenLock(str(file)))
            self.board = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                direction="minimize" if measure.lower else "maximize",
                study_name=f"{self.plan.folder.name} by {measure.metric}",
            )
        while self.to_show:
            point = self.to_show.pop(0)
            epochs, values = read_curve(point.folder, measure.metric)
            curve = dict(zip(map(int, epochs), values, strict=True))
            trial = self._to_trial(point, intermediate_values=curve, user_attrs={"folder": point.name})
            if not point.is_over():
                trial.state = optuna.trial.TrialState.FAIL
            self.board.add_trial(trial)


def to_distribution(space: Range | list[str]) -> Any:
    """Return what Optuna calls it."""
    from optuna import distributions as kinds

    if isinstance(space, list):
        return kinds.CategoricalDistribution(space)
    if space.whole:
        return kinds.IntDistribution(int(space.low), int(space.high), log=space.log)
    return kinds.FloatDistribution(space.low, space.high, log=space.log)


def read_value(space: Range | list[str], text: str) -> Any:
    """Return a value as it is in a trial's words, or the nearest one that can be drawn."""
    if isinstance(space, list):
        return text if text in space else space[0]
    return space.keep(float(text))


def expand_ranges(space: Space, steps: int) -> dict[str, list[str]]:
    """Return the values of a grid: those that are listed, and of each range as many as `steps`."""
    return {
        key: list(map(str, part.divide(steps))) if isinstance(part, Range) else part
        for key, part in space.items()
    }
