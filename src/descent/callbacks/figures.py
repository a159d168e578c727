"""What an epoch logged, as plain numbers, and the names to print."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Trainer

DEFAULT = "val/loss"  # what is monitored unless something else is asked for
TITLES = {"loss": "Loss", "acc": "Acc", "mae": "MAE", "r2": "R²"}  # as the tutorial prints them


def list_figures(trainer: Trainer) -> dict[str, float]:
    """Return what has been logged, by name; validation's values only if it ran since the last step.

    float32 has seven digits; more would suggest a false precision.
    """
    values: dict[str, Any] = trainer.callback_metrics
    recorder: Any = next(c for c in trainer.callbacks if hasattr(c, "validated"))  # type: ignore[attr-defined]
    stale = recorder.of_validation if recorder.validated != trainer.global_step else ()
    names = [name for name in values if name not in stale and not name.startswith("test")]
    names.sort(key=lambda name: name in recorder.of_validation)  # training's come first
    return {name: float(f"{values[name].item():.7g}") for name in names}


def title_of(figure: str) -> str:
    """Return a figure's name as the tutorial prints it: "Val Acc" for "val/acc"."""
    stage, slash, name = figure.partition("/")
    if not slash:
        return TITLES.get(figure, figure)
    return f"{stage.capitalize()} {TITLES.get(name, name)}"


def find_like(names: Iterable[str]) -> str:
    """Return the name that is most like the default: of validation rather than training, and a loss."""
    known = [name for name in names if name not in ("epoch", "step", "seconds")]
    return min(known, key=lambda name: ("val" not in name, "loss" not in name))
