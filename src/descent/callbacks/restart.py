"""Puts a resumed run back to the point at which its checkpoint was saved."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging

from descent.data.described import describe_data
from descent.data.like import compare_data
from descent.errors import ConfigError
from descent.run.folder import RunFolder, move
from descent.run.random_state import put_back_random_state


class Restart:
    """What a checkpoint contains, until the first batch of the resumed run.

    Args:
        trainer: of the resumed run.
        checkpoint: being loaded; the paths in its callbacks' states are moved to the run's folder.
        folder: the run's folder.

    Raises:
        ConfigError: the run cannot continue from it as the same run.
    """

    def __init__(self, trainer: Trainer, checkpoint: dict[str, Any], folder: RunFolder) -> None:
        self.parts: dict[str, Any] = checkpoint["parts"]
        self.loops = checkpoint["loops"]["fit_loop"]
        self.ended, self.within = self.parts["ended"], self.parts["within"]
        checkpoint["callbacks"] = move(checkpoint["callbacks"], self.parts["at"], str(folder.path))
        processes = self.parts["processes"]
        if len(processes) != trainer.world_size:
            expected = f"{len(processes)} processes in total, as in the resumed run"
            raise ConfigError("trainer.devices", trainer.world_size, expected=expected)
        self.mine: dict[str, Any] = processes[trainer.global_rank]
        now = describe_data(trainer).get("data", {})
        if changed := compare_data(now, checkpoint.get("data", {})):
            raise ConfigError("resume", expected=f"the data that the run was trained on; {changed}")
        if any(isinstance(one, StochasticWeightAveraging) for one in trainer.callbacks):  # type: ignore[attr-defined]
            expected = "callbacks without StochasticWeightAveraging, which cannot resume"
            raise ConfigError("callbacks", expected=expected)
        trainer.should_stop = self.ended and self.parts["should_stop"]  # early stopping has ended it
        progress, step = self.loops["epoch_loop.batch_progress"], checkpoint["global_step"]
        self.batch = 0 if self.ended else progress["current"]["completed"]
        midway = self.ended and progress["current"]["completed"] > 0 and not progress["is_last_batch"]
        if midway and not trainer.should_stop and (trainer.max_steps == -1 or trainer.max_steps > step):
            expected = f"{step}, because the run ended there, in the middle of an epoch"
            raise ConfigError("trainer.max_steps", trainer.max_steps, expected=expected)

    def begin(self, trainer: Trainer, pl_module: Any, loader: Any) -> None:
        """Prepare the first epoch, at the end of `on_train_start`."""
        if self.within and hasattr(loader, "start_at"):
            loader.start_at(self.batch)
        trainer.accumulate_grad_batches = self.parts["accumulate"]
        if self.ended or not self.within:
            end_restart(trainer)  # otherwise Lightning would continue in the middle of an epoch
        else:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_epoch_start(trainer, pl_module)  # Lightning skips it within an epoch

    def begin_epoch(self) -> None:
        """Restore the random state from which Lightning then recreates the loader's iterator."""
        if not self.within:
            put_back_random_state(self.mine["random"])

    def put_back(self, trainer: Trainer, pl_module: Any) -> None:
        """Restore everything to its state at the start of this batch, when the checkpoint was saved."""
        if self.within:
            put_back_random_state(self.mine["random"])
        if self.ended:  # this is the first batch of an additional epoch
            if "epoch" in self.mine:
                pl_module.samples_seen = self.mine["epoch"]["samples_seen"]
            return
        trainer.fit_loop.load_state_dict(self.loops)
        end_restart(trainer)
        logged = {name: value.to(pl_module.device) for name, value in self.parts["logged"].items()}
        trainer.callback_metrics.update(logged)
        trainer.should_stop = self.parts["should_stop"]
        if self.within:
            pl_module.load_epoch_state(self.mine["epoch"])


def end_restart(trainer: Trainer) -> None:
    """End the restart of Lightning's loops, which would otherwise skip steps as in a restart."""
    for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop):
        loop.on_iteration_done()
