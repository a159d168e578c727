"""Uses a trained run: predictions, evaluation, export."""

from descent.inference.predictor import Predictor, load, load_for

__all__ = ["Predictor", "load", "load_for"]
