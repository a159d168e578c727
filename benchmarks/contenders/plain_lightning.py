"""Plain Lightning, as its documentation shows it: DataLoader, self.log in each step, every default on."""

import lightning as L
import torch
import torchmetrics
from speed_arguments import device, folder, job
from torch.utils.data import DataLoader, TensorDataset


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model, self.criterion = job.model(), job.criterion()
        self.train_metric, self.val_metric = metric(), metric()

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        outputs = self.model(inputs)
        loss = self.criterion(outputs, targets)
        self.train_metric(outputs, targets)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_metric", self.train_metric, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        outputs = self.model(inputs)
        self.val_metric(outputs, targets)
        self.log("val_loss", self.criterion(outputs, targets), prog_bar=True)
        self.log("val_metric", self.val_metric)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.001)


class Stamp(L.Callback):
    """Prints a line for the benchmark when an epoch has ended."""

    def on_train_epoch_end(self, trainer, pl_module):
        print(f"\nEpoch {trainer.current_epoch + 1}", flush=True)


def metric():
    if job.real_values:
        return torchmetrics.MeanAbsoluteError()
    return torchmetrics.Accuracy(task="multiclass", num_classes=job.outputs)


train_data, val_data = job.splits()
trainer = L.Trainer(
    accelerator=device.type, max_epochs=job.epochs, default_root_dir=folder, callbacks=[Stamp()]
)
trainer.fit(
    Model(),
    DataLoader(TensorDataset(*train_data), job.batch_size, shuffle=True),
    DataLoader(TensorDataset(*val_data), job.batch_size),
)
