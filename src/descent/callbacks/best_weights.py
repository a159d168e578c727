"""The best weights of a run, by a metric."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from descent.errors import require
from descent.run.folder import RunFolder


class BestWeights(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which keeps what is best in memory until the next checkpoint is written.

    So a run of many short epochs does not spend its time on files; a resumed run finds them again. It uses
    private names of Lightning 2.6.6's class.

    Args:
        filename: of the best weights, without ".ckpt".
        monitor: the metric that decides which are best, such as "val/loss".
        mode: "min" or "max".
        save_top_k: how many of the best to keep; more than one need a filename with "{epoch}" in it.

    Raises:
        ConfigError: a filename that is another checkpoint's, or one in a folder.
    """

    def __init__(self, filename: str, monitor: str, mode: str, save_top_k: int) -> None:
        files = RunFolder("")
        taken = [path.stem for path in (files.last, files.previous, files.new)]
        own = filename not in taken and "/" not in filename
        require(
            own, "filename", filename, f"a name without a folder, and another one than {', '.join(taken)}"
        )
        several = save_top_k in (0, 1) or "{" in filename
        require(several, "save_top_k", save_top_k, "1, or a filename with {epoch} or {step} in it")
        super().__init__(
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_weights_only=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.held: dict[str, dict[str, Any]] = {}  # by path, what was best and is not written yet

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = str(RunFolder(trainer.default_root_dir).checkpoints)
        super().setup(trainer, pl_module, stage)

    def write(self, trainer: Trainer) -> None:
        """Write what is held in memory."""
        if self.held:
            now = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
            for path, then in self.held.items():
                trainer.strategy.save_checkpoint(now | then, path)
        self.held = {}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.write(trainer)

    def on_train_batch_end(self, *arguments: Any) -> None:  # type: ignore[override]
        # in place of ModelCheckpoint's: nothing is decided in the middle of Lightning's book-keeping
        pass

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.world_size == 1:
            self.write(trainer)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # what ModelCheckpoint calls to write a file
        weights = trainer.strategy.lightning_module_state_dict()
        self.held[filepath] = {
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "state_dict": {name: value.cpu().clone() for name, value in weights.items()},
        }
        self._last_global_step_saved = trainer.global_step

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Any]:
        # ModelCheckpoint copies every logged tensor; these are made anew each epoch
        counters = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
        return trainer.callback_metrics | counters

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if self.held.pop(filepath, None) is None:
            super()._remove_checkpoint(trainer, filepath)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Find the files again, though the folder may have been moved since.

        What was best by another metric says nothing of this one.
        """
        if state_dict["monitor"] != self.monitor:
            return
        old, new = str(state_dict["dirpath"]), str(self.dirpath)

        def move(value: Any) -> Any:
            if isinstance(value, dict):
                return {move(key): move(item) for key, item in value.items()}
            return str(Path(new) / Path(value).relative_to(old)) if is_below(value, old) else value

        super().load_state_dict(move(state_dict))


def is_below(value: Any, folder: str) -> bool:
    """Whether a plain value is a path in a folder, or the folder's own."""
    return isinstance(value, str) and bool(value) and Path(value).is_relative_to(folder)
