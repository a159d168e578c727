"""A run's folder: new, one run's alone, and gone again if nothing came of the run."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only


@contextmanager
def claimed(path: str) -> Iterator[Path]:
    """Make the folder, with a number after its name if that is taken; take it back if the run fails early.

    A run that ends with an error before it has a metric or a checkpoint to show leaves no folder. Of a
    distributed run, the first process makes it; Lightning passes that one's path on to the others.

    Args:
        path: the folder to make, with its parents.
    """
    folder = Path(path).expanduser().resolve()
    if rank_zero_only.rank != 0:
        yield folder
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = folder.with_name(Path(path).name + (f"-{number}" if number > 1 else ""))
        try:
            folder.mkdir()    # atomic: of two runs that want the same name, one fails
            break
        except FileExistsError:
            continue
    try:
        yield folder
    except BaseException:
        if not (folder / "metrics.csv").exists() and not any(folder.glob("checkpoints/*")):
            shutil.rmtree(folder)
        raise
