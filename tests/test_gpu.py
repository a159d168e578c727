"""What only a GPU can show; runs where there is one."""

from functools import partial

import pytest
import torch
from conftest import Run
from lightning.pytorch import Callback, LightningModule, Trainer

from descent.data.digits import digits
from descent.data.samples import FromSamples
from descent.loop import LeanLoop
from descent.losses import MeanAbsoluteError, adapt
from descent.metrics import Accuracy
from descent.models import CNN
from descent.module import Supervised

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


class NoWaiting(Callback):
    """Makes torch raise where a training step waits for the device, from the second step of an epoch on."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 0 else "default")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_waits_for_the_device(precision: str) -> None:
    sizes = {"batch_size": 64, "eval_batch_size": 512, "val_fraction": 0.1, "test_fraction": 0.1}
    data = FromSamples(digits, **sizes, seed=0, label_noise=0.0, fold=None, folds=5)  # type: ignore[arg-type]
    model = CNN(data.input_shape, data.outputs, channels=[8, 16], dropout=0.1)
    criterion = adapt(MeanAbsoluteError(), data.task, data.outputs)
    optimizer = partial(torch.optim.Adam, fused=True)
    module = Supervised(model, criterion, optimizer, None, {"acc": Accuracy()}, data.scaling)
    trainer = Trainer(
        accelerator="gpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=3,
        callbacks=[NoWaiting()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit_loop.epoch_loop = LeanLoop(trainer)
    trainer.fit(module, data)
    assert trainer.global_step == 3 * 23


@pytest.mark.parametrize("words", [(), ("trainer.precision=bf16-mixed",), ("compile=true",)])
def test_a_run_on_the_gpu_ends_where_one_on_the_cpu_does(run: Run, words: tuple[str, ...]) -> None:
    finished = run(
        "trainer.accelerator=gpu", "trainer.devices=1", "trainer.max_epochs=10", *words, timeout=300
    )
    assert finished.code == 0, finished.err
    assert "no working compiler" not in finished.out
    accuracy = float(finished.out.split("Test Acc: ")[1].split()[0].rstrip(","))
    assert accuracy > 0.9
