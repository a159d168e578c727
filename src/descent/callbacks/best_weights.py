"""The best weights of a run, by a metric."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from descent.errors import require
from descent.run.folder import RunFolder


class BestWeights(ModelCheckpoint):
    """Lightning's ModelCheckpoint, but it holds the best weights in memory until the next checkpoint is due.

    So a run of many short epochs does not spend its time on files. It uses private names of Lightning 2.6.6.

    Args:
        filename: of the best weights, without ".ckpt".
        monitor: the metric that decides which weights are best, such as "val/loss".
        mode: "min" or "max".
        save_top_k: how many of the best to keep; more than one need a filename with "{epoch}" in it.
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
        begun = {"epoch": torch.tensor(0), "step": torch.tensor(0)}
        self.format_checkpoint_name(begun)  # raises now what it would raise after an epoch
        self.held: dict[str, dict[str, Any]] = {}  # by path, what was best and is not written yet

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = str(RunFolder(trainer.default_root_dir).checkpoints)
        super().setup(trainer, pl_module, stage)

    def write(self, trainer: Trainer) -> None:
        """Write the weights that are held in memory, each with the rest of a checkpoint."""
        if self.held:
            now = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
            for path, then in self.held.items():
                trainer.strategy.save_checkpoint(now | then, path)
        self.held = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.write(trainer)

    def on_train_batch_end(self, *arguments: Any) -> None:  # type: ignore[override]
        """Do nothing, where ModelCheckpoint would save in the middle of Lightning's book-keeping."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.world_size == 1:
            self.write(trainer)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # ModelCheckpoint calls this to write a file
        weights = trainer.strategy.lightning_module_state_dict()
        self.held[filepath] = {
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "state_dict": {name: value.cpu().clone() for name, value in weights.items()},
        }
        self._last_global_step_saved = trainer.global_step

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Any]:
        # ModelCheckpoint would copy every logged tensor, but this project logs new ones each epoch
        counters = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
        return trainer.callback_metrics | counters

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if self.held.pop(filepath, None) is None:
            super()._remove_checkpoint(trainer, filepath)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Find the files again, although the folder may have moved since."""
        if state_dict["monitor"] != self.monitor:  # the best by another metric says nothing about this one
            return
        old, new = state_dict["dirpath"], Path(str(self.dirpath))

        def move(value: Any) -> Any:
            if isinstance(value, dict):
                return {move(key): move(item) for key, item in value.items()}
            inside = isinstance(value, str) and value and Path(value).is_relative_to(old)
            return str(new / Path(value).relative_to(old)) if inside else value

        super().load_state_dict(move(state_dict))
