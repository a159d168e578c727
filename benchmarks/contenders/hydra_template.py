"""The layout of lightning-hydra-template (ashleve, v2.0.2): its module's metrics, its callbacks, TensorBoard.

Written anew after its `src/models/mnist_module.py` and `configs/callbacks/default.yaml`; Hydra itself is
left out, which is in its favour.
"""

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichModelSummary, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from speed_arguments import device, folder, job
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MaxMetric, MeanAbsoluteError, MeanMetric
from torchmetrics.classification.accuracy import Accuracy


class LitModule(L.LightningModule):
    def __init__(self, net, criterion):
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["net", "criterion"])
        self.net, self.criterion = net, criterion
        self.train_metric, self.val_metric, self.test_metric = metric(), metric(), metric()
        self.train_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.val_best = MaxMetric()

    def forward(self, inputs):
        return self.net(inputs)

    def on_train_start(self):
        self.val_loss.reset()
        self.val_metric.reset()
        self.val_best.reset()

    def model_step(self, batch):
        inputs, targets = batch
        outputs = self.forward(inputs)
        loss = self.criterion(outputs, targets)
        return loss, outputs if job.real_values else torch.argmax(outputs, dim=1), targets

    def training_step(self, batch, batch_idx):
        loss, predictions, targets = self.model_step(batch)
        self.train_loss(loss)
        self.train_metric(predictions, targets)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/metric", self.train_metric, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        loss, predictions, targets = self.model_step(batch)
        self.val_loss(loss)
        self.val_metric(predictions, targets)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/metric", self.val_metric, on_step=False, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self):
        self.val_best(self.val_metric.compute())
        self.log("val/best", self.val_best.compute(), sync_dist=True, prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.001)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.1, patience=10)
        settings = {"scheduler": scheduler, "monitor": "val/loss", "interval": "epoch", "frequency": 1}
        return {"optimizer": optimizer, "lr_scheduler": settings}


class Stamp(L.Callback):
    """Prints a line for the benchmark when an epoch has ended."""

    def on_train_epoch_end(self, trainer, pl_module):
        print(f"\nEpoch {trainer.current_epoch + 1}", flush=True)


def metric():
    return MeanAbsoluteError() if job.real_values else Accuracy(task="multiclass", num_classes=job.outputs)


train_data, val_data = job.splits()
trainer = L.Trainer(
    accelerator=device.type,
    max_epochs=job.epochs,
    default_root_dir=folder,
    callbacks=[
        ModelCheckpoint(f"{folder}/checkpoints", monitor="val/metric", mode="max", save_last=True),
        EarlyStopping("val/metric", patience=100, mode="max"),
        RichModelSummary(max_depth=-1),
        RichProgressBar(),
        Stamp(),
    ],
    logger=TensorBoardLogger(folder, name="tensorboard"),
)
trainer.fit(
    LitModule(job.model(), job.criterion()),
    DataLoader(TensorDataset(*train_data), job.batch_size, shuffle=True),
    DataLoader(TensorDataset(*val_data), job.batch_size),
)
