"""Hugging Face's Trainer, its defaults, with validation each epoch, on a network of its user."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from speed_arguments import folder, job
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments


class Learner(nn.Module):
    """What Trainer expects: the loss first, and then the outputs."""

    def __init__(self):
        super().__init__()
        self.network, self.criterion = job.model(), job.criterion()

    def forward(self, inputs, labels):
        outputs = self.network(inputs)
        return {"loss": self.criterion(outputs, labels), "logits": outputs}


class Samples(Dataset):
    """Samples as the dicts that its collator takes."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        return {"inputs": self.inputs[row], "labels": self.targets[row]}


class Stamp(TrainerCallback):
    """Prints a line for the benchmark when an epoch has ended; validation comes before the next."""

    def on_epoch_begin(self, args, state, control, **others):
        if state.epoch:
            print(f"\nEpoch {round(state.epoch)}", flush=True)


def measure(prediction):
    outputs, labels = (torch.as_tensor(part) for part in prediction)
    if job.real_values:
        return {"mae": (outputs - labels).abs().mean().item()}
    return {"accuracy": (outputs.argmax(1) == labels).float().mean().item()}


train_data, val_data = (Samples(*split) for split in job.splits())
arguments = TrainingArguments(
    output_dir=folder,
    num_train_epochs=job.epochs,
    per_device_train_batch_size=job.batch_size,
    per_device_eval_batch_size=1024,
    learning_rate=0.001,
    weight_decay=0.0,
    lr_scheduler_type="constant",
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=1,
    logging_strategy="epoch",
    report_to="none",
    disable_tqdm=True,
)
Trainer(
    model=Learner(),
    args=arguments,
    train_dataset=train_data,
    eval_dataset=val_data,
    compute_metrics=measure,
    callbacks=[Stamp()],
).train()
print(f"\nEpoch {job.epochs}", flush=True)
