"""Lets Lightning's CSV logger continue its file in a resumed run."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn

from descent.run.atomic import write_text


class CsvLines(Callback):
    """Keeps the lines of each `CSVLogger` in the checkpoints, because it removes its file when it starts."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["csv"] = []
        for logger in find_loggers(trainer):
            logger.save()
            file = Path(logger.experiment.metrics_file_path)
            checkpoint["csv"].append(file.read_text(encoding="utf-8") if file.exists() else "")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        # not strict: a logger that is new in the resumed run has no lines yet
        for logger, text in zip(find_loggers(trainer), checkpoint.get("csv", []), strict=False):
            if text:
                write_text(Path(logger.experiment.metrics_file_path), text)
                logger.experiment.metrics_keys = text.splitlines()[0].split(",")


def find_loggers(trainer: Trainer) -> list[CSVLogger]:
    """Return the loggers that write a CSV; only the first process has any."""
    return [logger for logger in trainer.loggers if trainer.is_global_zero and isinstance(logger, CSVLogger)]
