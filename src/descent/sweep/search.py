"""Search: trials that are proposed one after another, by what came of those before.

All that a search knows is in its runs' folders, so one that was killed goes on with what it would have
proposed: each proposal has a random generator of its own, made of the seed and the trial's number.
"""

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from statistics import mean
from typing import Any, Literal

from descent.errors import ConfigError, require
from descent.sweep.pictures import read_curve, read_names
from descent.sweep.plan import Plan, Point, best_figures, read_result
from descent.sweep.ranking import Measure, choose_measure

RATE = "optimizer.lr"
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
        if self.sampler == "tpe":
            try:
                import optuna  # noqa: F401
            except ImportError as error:
                expected = "random, or Optuna installed: uv sync --extra search"
                raise ConfigError("sampler", "tpe", expected=expected) from error


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
    """The rate whose value, averaged with those of its neighbours, is the best; None where there is none.

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
    """Numbers from `low` to `high`; drawn evenly, or evenly over their logarithms; `text` is as typed."""

    low: float
    high: float
    log: bool
    whole: bool
    text: str = ""

    def draw(self, chance: random.Random) -> float:
        """One of them."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = chance.uniform(low, high)
        return self.keep(math.exp(value) if self.log else value)

    def divide(self, steps: int) -> list[float]:
        """As many of them at equal distances, the ends included."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        values = [low + (high - low) * step / (steps - 1) for step in range(steps)]
        return list(dict.fromkeys(self.keep(math.exp(v) if self.log else v) for v in values))

    def keep(self, value: float) -> float:
        """The number as it can be typed."""
        if self.whole:
            return min(max(round(value), round(self.low)), round(self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


def draw(space: Range | list[str], chance: random.Random) -> Any:
    """A value at random."""
    return space.draw(chance) if isinstance(space, Range) else chance.choice(space)


Space = Mapping[str, Range | list[str]]


class Search:
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
        self.waiting = [point for point in self.points.values() if not point.is_over()]
        self.at_work: set[Point] = set()
        self.rungs: dict[Point, int] = {}  # the epoch at which a trial is looked at next
        self.measure: Measure | None = None

    def take(self) -> Point | None:
        """A trial that was begun, or the next one."""
        if self.waiting:
            point = self.waiting.pop(0)
        elif len(self.points) < self.trials:
            point = self._propose()
        else:
            return None
        self.at_work.add(point)
        return point

    def _propose(self) -> Point:
        """The next trial, of the first number that is free."""
        number = next(number for number in count() if number not in self.points)
        chance = random.Random(f"{self.seed} {number}")
        if self.settings.sampler == "random" or number < self.settings.startup:
            values = {key: draw(space, chance) for key, space in self.space.items()}
        else:
            values = self._ask(chance.randrange(2**32))
        point = self.plan.trial(number, {key: str(value) for key, value in values.items()})
        self.points[number] = point
        return point

    def left(self) -> int:
        """How many trials are still to be taken."""
        return max(0, self.trials - len(self.points)) + len(self.waiting)

    def ended(self, point: Point) -> None:
        """A trial is no longer at work."""
        self.at_work.discard(point)

    def is_hopeless(self, point: Point) -> bool:
        """Whether a trial is not among the best of those that have come as far."""
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
        """What trials are compared by, once one of them has come to a figure."""
        if self.measure is None and (names := read_names(point.folder)):
            self.measure = choose_measure(*self.look, list(self.space), dict.fromkeys(names, 0.0))
        return self.measure

    def _value(self, point: Point) -> float | None:
        """What came of a trial; None if it has not ended as it should."""
        measure = self._find_measure(point)
        if measure is None or point.state() != "done":
            return None
        return best_figures(read_result(point.folder)).get(measure.metric)

    def _ask(self, seed: int) -> dict[str, Any]:
        """What Optuna proposes, whose study is made anew of what the folders hold."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=1, multivariate=True, constant_liar=True
        )
        values = {point: self._value(point) for _, point in sorted(self.points.items())}
        lower = self.measure is None or self.measure.lower
        study = optuna.create_study(direction="minimize" if lower else "maximize", sampler=sampler)
        distributions = {key: to_distribution(space) for key, space in self.space.items()}
        states = optuna.trial.TrialState
        for point, value in values.items():
            state = states.COMPLETE if value is not None else states.PRUNED  # as the worst, if it failed
            state = states.RUNNING if point in self.at_work else state
            params = {key: read_value(self.space[key], text) for key, text in point.values.items()}
            trial = optuna.trial.create_trial(
                params=params, distributions=distributions, value=value, state=state
            )
            study.add_trial(trial)
        found = study.ask(distributions).params
        return {k: s.keep(found[k]) if isinstance(s, Range) else found[k] for k, s in self.space.items()}


def to_distribution(space: Range | list[str]) -> Any:
    """What Optuna calls it."""
    from optuna import distributions as kinds

    if isinstance(space, list):
        return kinds.CategoricalDistribution(space)
    if space.whole:
        return kinds.IntDistribution(int(space.low), int(space.high), log=space.log)
    return kinds.FloatDistribution(space.low, space.high, log=space.log)


def read_value(space: Range | list[str], text: str) -> Any:
    """A value as it is in a trial's words, or the nearest one that can be drawn."""
    if isinstance(space, list):
        return text if text in space else space[0]
    return space.keep(float(text))


def expand_ranges(space: Space, steps: int) -> dict[str, list[str]]:
    """The values of a grid: those that are listed, and of each range as many as there are to be steps."""
    return {
        key: list(map(str, part.divide(steps))) if isinstance(part, Range) else part
        for key, part in space.items()
    }
