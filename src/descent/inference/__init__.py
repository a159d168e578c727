"""Uses a trained run: predictions, evaluation, export."""

from descent.inference.predictor import Predictor, load

__all__ = ["Predictor", "load"]
