"""A trained run, put to use: predictions, an evaluation, an export."""

from descent.inference.predictor import Predictor, load

__all__ = ["Predictor", "load"]
