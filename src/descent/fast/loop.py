"""`trainer=fast`: Lightning's loop over training batches, with only the hooks that something overrides."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from inspect import signature
from itertools import count, repeat
from typing import Any

import lightning
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.memory import recursive_detach
from torch import Tensor
from torch.optim import LBFGS

import descent.trainer
from descent.data.samples import FromSamples
from descent.errors import blame
from descent.fast.kernels import Stepper

HELD_AGAINST = ("2.6.6",)  # whose private names this builds on; with another Lightning, its own loop runs

# hooks of callbacks and the module around each training batch
HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
# a module, or data, that overrides any of these gets Lightning's own `advance`
TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
STEP = ("optimizer_zero_grad", "backward", "configure_gradient_clipping", "optimizer_step")


class FastTrainer(descent.trainer.Trainer):
    """A Trainer whose loop calls only overridden hooks, with the same bits."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if lightning.__version__ in HELD_AGAINST:
            self.fit_loop.epoch_loop = LeanLoop(self, self.min_steps, self.max_steps)
        else:
            held, this = ", ".join(HELD_AGAINST), lightning.__version__
            print(f"trainer=fast was tested with Lightning {held}; {this} runs its own loop")


class LeanLoop(_TrainingEpochLoop):
    """The training batches of an epoch; validation, schedulers, counters and checkpoints are Lightning's.

    Lightning 2.6 calls about 25 hooks of callbacks, module and strategy around each batch, whether or not
    anything overrides them, which costs 0.6 ms of a small model's 1.1 ms per step (docs/speed.md).
    This loop does the same in the same order but calls only overridden hooks. If a run needs more than
    that, such as several devices or gradient accumulation, Lightning's own `advance` runs instead.
    """

    plain = False  # whether this loop replaces Lightning's own `advance`
    module: Any = None  # whose hooks were inspected

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        trainer, module = self.trainer, self.trainer.lightning_module
        if self.module is not module:  # inspecting 50 methods takes 0.1 ms
            self.listeners = {name: list_listeners(name, trainer, module) for name in HOOKS}
            self.takes_index = "batch_idx" in signature(module.training_step).parameters
            self.module = module
        self.plain = not self._is_unusual(data_fetcher)
        if not self.plain:
            return
        # then nothing happens between two batches but checking whether the run should stop
        self.uninterrupted = (
            self.max_steps == -1
            and trainer.val_check_batch in (trainer.num_training_batches, float("inf"))
            and trainer._val_check_time_interval is None  # type: ignore[attr-defined]
            and not any(s.reduce_on_plateau and s.interval == "step" for s in trainer.lr_scheduler_configs)
        )
        loader: Any = data_fetcher.combined_loader
        if loader.iterables is loader.flattened[0]:
            # a single loader: no tree of batches to reassemble around each batch
            data_fetcher.iterator = zip(loader._iterator.iterators[0], count(), repeat(0), strict=False)
        precision = trainer.precision_plugin
        self.autocast = precision.train_step_context if isinstance(precision, MixedPrecision) else nullcontext
        self.device, self.optimizer = trainer.strategy.root_device, trainer.optimizers[0]
        self.stepper, self.of_optimizer = Stepper(self.optimizer), blame("optimizer")
        self.names = vars(module)  # `self.log` looks up the current hook here

    def _is_unusual(self, data_fetcher: _DataFetcher) -> bool:
        """Whether anything in this run requires Lightning's own `advance`."""
        trainer, module = self.trainer, self.trainer.lightning_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        precision = trainer.precision_plugin
        base = FromSamples if isinstance(data, FromSamples) else LightningDataModule
        return (
            any(overridden(module, n, LightningModule) for n in (*TRANSFER, *STEP, "on_train_batch_start"))
            or bool(data and any(overridden(data, name, base) for name in TRANSFER))
            or not self.takes_index
            or type(trainer.strategy) is not SingleDeviceStrategy
            or type(precision) not in (Precision, MixedPrecision)
            or getattr(precision, "scaler", None) is not None
            or type(trainer.profiler) is not descent.trainer.Quiet  # type: ignore[attr-defined]
            or trainer.accumulate_grad_batches != 1
            or not module.automatic_optimization
            or len(trainer.optimizers) != 1
            # torch's optimizers call the closure first, except the one that calls it several times
            or not type(trainer.optimizers[0]).__module__.startswith("torch.optim.")
            or isinstance(trainer.optimizers[0], LBFGS)
            or isinstance(data_fetcher, _DataLoaderIterDataFetcher)
        )

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Train on one batch, and on the following ones until Lightning has other work to do."""
        resumes = self.restarting  # what follows is how Lightning's own `advance` begins
        validates = resumes and self._should_check_val_fx(data_fetcher)
        midway = validates and (self.val_loop.restarted_mid_evaluation or self.restarted_on_last)
        if not self.plain or midway:
            super().advance(data_fetcher)
            return
        if validates:
            self.val_loop.increment_progress_to_evaluation_end()
        self.val_loop.restarting = False
        while True:
            batch, _, _ = next(data_fetcher)
            self.batch_progress.is_last_batch = data_fetcher.done
            self._train_on(batch)
            stop = self.trainer.should_stop or self.trainer.received_sigterm
            if stop or resumes or not self.uninterrupted or self._num_ready_batches_reached():
                return
            self._batches_that_stepped += 1

    def _train_on(self, batch: Any) -> None:
        trainer = self.trainer
        progress, batch_idx = self.automatic_optimization.optim_progress.optimizer, self.batch_idx + 1
        if self.device.type != "cpu":
            batch = move_data_to_device(batch, self.device)
        self.batch_progress.increment_ready()
        # logger.on_batch_start, which first searches for the loop whose results to notify
        logger, self._results.batch, self._results.batch_size = trainer._logger_connector, batch, None
        logger._first_loop_iter = logger._first_loop_iter is None
        self._call("on_train_batch_start", batch, batch_idx)
        self.batch_progress.increment_started()

        progress.step.increment_ready()
        outputs = self._differentiate(batch, batch_idx)
        with self.of_optimizer:
            self.stepper.step()
        progress.step.increment_completed()

        self.batch_progress.increment_processed()
        if trainer.lr_scheduler_configs:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        self._call("on_train_batch_end", outputs, batch, batch_idx)
        self.batch_progress.increment_completed()
        if self._results:  # something was logged by self.log
            logger.on_batch_end()
            logger.update_train_step_metrics()

    def _differentiate(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Do what an optimizer's closure does, and return the module's step output."""
        self.names["_current_fx_name"] = "training_step"
        with self.autocast():
            output = self.module.training_step(batch, batch_idx)
        self.names["_current_fx_name"] = None
        loss: Tensor | None = output["loss"] if isinstance(output, Mapping) else output
        outputs = recursive_detach(output) if isinstance(output, Mapping) else {}
        progress = self.automatic_optimization.optim_progress.optimizer.zero_grad
        progress.increment_ready()
        self._call("on_before_zero_grad", self.optimizer)
        progress.increment_started()
        self.stepper.zero_grad()
        progress.increment_completed()
        if loss is not None:  # None: the step asks to skip this batch
            self._call("on_before_backward", loss)
            loss.backward()
            outputs["loss"] = loss.detach()
            self._call("on_after_backward")
        self._call("on_before_optimizer_step", self.optimizer)
        if (clip := self.trainer.gradient_clip_val) is not None:
            self.module.clip_gradients(self.optimizer, clip, self.trainer.gradient_clip_algorithm)
        return outputs

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a hook on everything that overrides it."""
        for hook in self.listeners[name]:
            self.names["_current_fx_name"] = name
            hook(*arguments)
            self.names["_current_fx_name"] = None


def list_listeners(name: str, trainer: Trainer, module: LightningModule) -> list[Callable[..., Any]]:
    """Return the functions to call for a hook, in the order in which Lightning would call them."""
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    heard = [partial(getattr(c, name), trainer, module) for c in callbacks if overridden(c, name, Callback)]
    return [*heard, *([getattr(module, name)] if overridden(module, name, LightningModule) else [])]


def overridden(instance: object, name: str, base: type) -> bool:
    return name in vars(instance) or getattr(type(instance), name) is not getattr(base, name)
