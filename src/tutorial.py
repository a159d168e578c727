# %% [markdown]
# # The training loop, by hand and by Lightning
#
# Each cell shows a fact and prints it. Run the file from any folder, `python src/tutorial.py`, or open it
# as a notebook: VS Code shows the cells as they are; `jupytext --to ipynb src/tutorial.py` converts them.

# %%
# ruff: noqa: PLW2901
# mypy: disable-error-code="assignment, misc, operator"
import copy
import logging
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from tqdm import tqdm

from descent.data.digits import digits

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # no lines about GPUs
warnings.filterwarnings("ignore", module="lightning")  # no advice about worker processes

# %% [markdown]
# ## 1. A loss is a module
#
# Mean absolute error: sum the distances, divide by the number of samples. With one output per sample this is
# `torch.nn.L1Loss`. With several, `L1Loss` also divides by the number of outputs; this one does not.


# %%
class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, input, target):
        return (1 / len(input)) * torch.sum(torch.abs(input - target))


input, target = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 4.0, 1.0])
print(f"1. (|1 - 1| + |2 - 4| + |4 - 1|) / 3 = {Loss()(input, target):.4f}")
print(f"1. torch.nn.L1Loss gives {nn.L1Loss()(input, target):.4f}")

# %% [markdown]
# Why `super().__init__()`? A child that defines `__init__` replaces its parent's, and what the parent's would
# set is missing unless the child calls it. `nn.Module.__init__` creates the registers of parameters,
# submodules and hooks: without them a module can neither hold a layer nor be called. (`Loss` would work
# without its `__init__`, because a child that defines none inherits its parent's.)


# %%
class Parent:
    def __init__(self):
        self.name = "set by Parent"


class Child(Parent):
    def __init__(self):
        super().__init__()


class ForgetfulChild(Parent):
    def __init__(self):
        self.age = 3


class ForgetfulModel(nn.Module):
    def __init__(self):
        self.layer = nn.Linear(2, 1)


print(f"1. a name: Child {hasattr(Child(), 'name')}, ForgetfulChild {hasattr(ForgetfulChild(), 'name')}")
try:
    ForgetfulModel()
except AttributeError as error:
    print(f"1. nn.Module without super().__init__(): AttributeError: {error}")

# %% [markdown]
# ## 2. The criterion has no parameters, the model has

# %%
torch.manual_seed(0)
model = nn.Linear(2, 1)
criterion = Loss()
counts = [sum(p.numel() for p in module.parameters()) for module in (criterion, model)]
print(f"2. parameters of the criterion: {counts[0]}, of the model: {counts[1]}")

# %% [markdown]
# ## 3. `backward` adds gradients to the parameters
#
# The criterion never sees a parameter. `loss` remembers how it was computed, so `loss.backward()` finds the
# model's parameters, and *adds* to the `grad` of each. All targets lie far above the outputs, so each sample
# pulls with the same strength: the gradient is minus the mean of the inputs, which is (4, 5).

# %%
inputs = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
targets = torch.full((4, 1), 100.0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
print(f"3. weight.grad at first: {model.weight.grad}")
criterion(model(inputs), targets).backward()
print(f"3. after backward: {model.weight.grad}")
criterion(model(inputs), targets).backward()
print(f"3. after a second backward: {model.weight.grad}")
optimizer.zero_grad()
print(f"3. after zero_grad: {model.weight.grad}")

# %% [markdown]
# ## 4. The optimizer and the model hold the same tensors
#
# They are not copies. So `step` finds what `backward` filled, and changes the weights of the model itself.

# %%
pairs = zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True)
print(f"4. each parameter of the optimizer is the model's: {all(a is b for a, b in pairs)}")

# %% [markdown]
# ## 5. A step of SGD is a subtraction


# %%
def find_largest_difference(model, other):
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


twin = copy.deepcopy(model)
criterion(model(inputs), targets).backward()
criterion(twin(inputs), targets).backward()
optimizer.step()
with torch.no_grad():  # the change of a weight is not part of any loss
    for p in twin.parameters():
        p -= 0.125 * p.grad  # lr is a power of two, so this product is exact and no rounding differs
print(f"5. optimizer.step() against p -= lr * p.grad: {find_largest_difference(model, twin):g}")

# %% [markdown]
# ## 6. The loop by hand
#
# 1,797 handwritten digits of 8 × 8 pixels. All generators are seeded: each train loader shuffles in the same
# order, and each model starts from the same weights. `train()` and `eval()` matter because layers such as
# dropout act differently in the two modes.

# %%
EPOCHS, BATCH, FIGURES = 10, 64, ("train_loss", "train_acc", "val_loss", "val_acc")
LINE = "Epoch {}/{}, Train Loss: {:.4f}, Train Acc: {:.4f}, Val Loss: {:.4f}, Val Acc: {:.4f}"
images = torch.as_tensor(digits().inputs) / 16  # from 0 to 1
dataset = TensorDataset(images, digits().targets)
train_set, val_set = random_split(dataset, [1437, 360], torch.Generator().manual_seed(0))
val_loader = DataLoader(val_set, BATCH)


def make_train_loader():
    return DataLoader(train_set, BATCH, shuffle=True, generator=torch.Generator().manual_seed(0))


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))


model = make_model().train()
print(f"6. train(): equal images give equal outputs: {torch.equal(model(images), model(images))}")
model.eval()
print(f"6. eval(): equal images give equal outputs: {torch.equal(model(images), model(images))}")

# %%
model = make_model()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
train_loader, history = make_train_loader(), []

for epoch in range(1, EPOCHS + 1):
    model.train()
    train_loss, train_correct = 0.0, 0
    for inputs, labels in tqdm(train_loader, desc=f"Epoch {epoch}/{EPOCHS}", leave=False):
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        train_loss += loss.item() * len(inputs)
        train_correct += (outputs.argmax(1) == labels).sum().item()

    model.eval()
    val_loss, val_correct = 0.0, 0
    with torch.no_grad():
        for inputs, labels in val_loader:
            outputs = model(inputs)
            val_loss += criterion(outputs, labels).item() * len(inputs)
            val_correct += (outputs.argmax(1) == labels).sum().item()
    n, m = len(train_set), len(val_set)
    history.append([train_loss / n, train_correct / n, val_loss / m, val_correct / m])
    print(LINE.format(epoch, EPOCHS, *history[-1]))

# %% [markdown]
# ## 7. The same by Lightning
#
# You write the lines that describe the problem; the comments on the right are the lines by hand. Lightning
# runs the loops, `train()`, `zero_grad()`, `backward()`, `step()`, `eval()`, and `no_grad()` in its stricter
# form, `inference_mode()`.


# %%
class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = make_model()  #               model = make_model()
        self.criterion = nn.CrossEntropyLoss()  #  criterion = nn.CrossEntropyLoss()
        self.history, self.modes = [], {}

    def configure_optimizers(self):  #             optimizer = torch.optim.Adam(…)
        return torch.optim.Adam(self.model.parameters(), lr=0.001)

    def training_step(self, batch, _):  #          model.train()
        return self.compute_loss("train", *batch)  # optimizer.zero_grad(), loss.backward(), optimizer.step()

    def validation_step(self, batch, _):  #        model.eval(), with torch.no_grad():
        self.compute_loss("val", *batch)

    def compute_loss(self, split, inputs, labels):
        self.modes[split] = f"training {self.model.training}, gradients {torch.is_grad_enabled()}"
        outputs = self.model(inputs)  #            outputs = model(inputs)
        loss = self.criterion(outputs, labels)  #  loss = criterion(outputs, labels)
        accuracy = (outputs.argmax(1) == labels).float().mean()
        figures = {f"{split}_loss": loss, f"{split}_acc": accuracy}  # train_loss += …, train_correct += …
        self.log_dict(figures, on_step=False, on_epoch=True, batch_size=len(inputs))
        return loss

    def on_train_epoch_end(self):  #               print(…)
        self.history.append([self.trainer.callback_metrics[name].item() for name in FIGURES])
        print(LINE.format(self.current_epoch + 1, EPOCHS, *self.history[-1]))


module = Classifier()
trainer = Trainer(
    max_epochs=EPOCHS, accelerator="cpu", num_sanity_val_steps=0, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(module, make_train_loader(), val_loader)  # for epoch in …: for inputs, labels in …:
print(f"7. in training_step: {module.modes['train']}; in validation_step: {module.modes['val']}")
print(f"7. largest difference of a weight: {find_largest_difference(model, module.model):g}")
difference = (torch.tensor(history) - torch.tensor(module.history)).abs().max()
print(f"7. largest difference of a figure: {difference:.0e}")

# %% [markdown]
# The weights are equal to the last bit. A figure may differ in its seventh digit, because Lightning sums in
# 32-bit numbers and Python in 64-bit ones.
#
# ## 8. The mean over samples, not over batches
#
# Many tutorials divide the sum of `loss.item()` by `len(loader)`, so that a sample of a smaller last batch
# counts more than others; the template weighs each batch by its size, as both loops above do.

# %%
model.eval()
with torch.no_grad():
    losses = torch.tensor([criterion(model(inputs), labels) for inputs, labels in val_loader])
sizes = torch.tensor([len(inputs) for inputs, _ in val_loader])
print(f"8. mean over the batches of {sizes.tolist()} samples: {losses.mean():.4f}")
print(f"8. mean over the samples: {(losses * sizes).sum() / sizes.sum():.4f}")
