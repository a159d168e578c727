"""TensorBoard's curves, at almost no cost per epoch.

Builds on two private names, of Lightning 2.6.6 and of torch 2.15's SummaryWriter.
"""

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger, but it keeps what is logged until `save`, once a second in a run.

    TensorBoard's own thread would wake up for each value, and a small model's steps would wait for it: a
    tenth of an epoch of 8 ms (docs/performance.md). All that is logged at one moment is one event.
    """

    @cached_property
    def points(self) -> list[tuple[Mapping[str, float], int | None, float]]:
        """What is not written yet: values by name, the step, and the time in seconds."""
        return []

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if all(isinstance(value, float) for value in metrics.values()):
            self.points.append((metrics, step, time.time()))
        else:
            super().log_metrics(metrics, step)

    @rank_zero_only
    def save(self) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        before = f"{self._prefix}{self.LOGGER_JOIN_CHAR}" if self._prefix else ""
        points = [*self.points]
        self.points.clear()  # first, so that what cannot be written is not tried again
        for metrics, step, logged_at in points:
            values = [Summary.Value(tag=before + name, simple_value=value) for name, value in metrics.items()]
            file = self.experiment._get_file_writer()  # opens it again, if an earlier stage has closed it
            file.add_summary(Summary(value=values), step, logged_at)
        super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
        super().finalize(status)
