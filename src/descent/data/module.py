"""What a data set tells everything else: the model, the loss and the metrics get their sizes from it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from torch import Tensor

from descent.data.changes import compare_descriptions
from descent.scaling import Scaling

LINES = 20  # of a preview that a terminal shows


class DataModule(LightningDataModule):
    """The contract between data and everything else. A subclass fills the attributes and the three loaders.

    Batches are `(inputs, targets)`: inputs as `scaling.scale` returns them, and class indices, int64
    `(batch,)`, or values as `scaling.scale_targets` returns them, float32 `(batch, outputs)`. A training
    loader with a method `start_at(batch)` begins its next epoch at that batch, so that a run can resume in
    the middle of an epoch. The data of a run that starts from another run's weights is built with an
    argument `like` (see `descent.data.like`).

    Attributes:
        task: "classification" or "regression".
        input_shape: of one sample, as the network sees it, without the batch.
        outputs: number of classes, or of target values.
        names: of the classes, or of the target values, in the order of the network's outputs.
        class_counts: training samples of each class; empty in regression.
        scaling: fitted on the training split.
        batch_size: samples of a training batch.
        fingerprint: a text that differs if a sample differs.
        reader: plain values that say how a file becomes inputs again; see `descent.data.readers`.
        examples: a few raw training inputs, with which an exported model is compared to the original.
        preview: lines that say how a person's own files were understood; empty for other data.
    """

    task: Literal["classification", "regression"]
    input_shape: tuple[int, ...]
    outputs: int
    names: list[str]
    class_counts: list[int]
    scaling: Scaling
    batch_size: int
    fingerprint: str
    reader: dict[str, Any]
    examples: Tensor
    preview: str

    def count_batches(self) -> int | None:
        """Return the number of training batches of an epoch in one process, or None if it is not known."""
        return None

    def shorten_preview(self) -> str:
        """Return the preview as a terminal shows it: beyond the first lines, the others are only counted."""
        lines = self.preview.splitlines(keepends=True)
        rest = Counter(line[2:12].strip() for line in lines[LINES:])
        if rest.total() < 2:
            return self.preview
        counts = ", ".join(f"{count:,} {kind}" for kind, count in rest.items())
        return "".join(lines[:LINES]) + f"  …         {counts}; data.txt has them all\n"

    def describe(self) -> dict[str, Any]:
        """Return plain values for a checkpoint: all that it takes to read new files and to name outputs."""
        return {
            "task": self.task,
            "input_shape": list(self.input_shape),
            "outputs": self.outputs,
            "names": list(self.names),
            "class_counts": list(self.class_counts),
            "fingerprint": self.fingerprint,
            "reader": self.reader,
        }

    def tell_changes(self, before: Mapping[str, Any]) -> str:
        """Return in words what differs from what `describe` returned once; "" if nothing does."""
        return compare_descriptions(before, self.describe())
