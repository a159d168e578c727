"""Peak memory of training on a memory-mapped file: `python benchmarks/arrays.py --gigabytes 10`.

Writes x.npy, rows of 1,024 random numbers, and y.npy, 10 classes; trains one epoch on them, and removes them.
The peak is what Linux says in /proc, pages of the mapped file included, above a process that only imports.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WIDTH, BLOCK = 1_024, 16_384  # numbers of a row, and rows that are written at once
IMPORTS = "import hydra, torch, torch._dynamo, lightning.pytorch, torch.utils.tensorboard, torchmetrics"
FIGURES = ("VmHWM", "RssAnon", "RssFile")  # at the most, and now: own pages, and a file's


def write(folder: Path, rows: int) -> None:
    """Write inputs `(rows, 1024)`, float32, and classes `(rows,)`, int64."""
    block = np.random.default_rng(0).normal(size=(BLOCK, WIDTH)).astype(np.float32)
    with (folder / "x.npy").open("wb") as file:
        header = {"descr": block.dtype.str, "fortran_order": False, "shape": (rows, WIDTH)}
        np.lib.format.write_array_header_2_0(file, header)
        for start in range(0, rows, BLOCK):
            block[: rows - start].tofile(file)
    np.save(folder / "y.npy", np.arange(rows) % BLOCK % 10)


def watch(*command: str) -> dict[str, float]:
    """Run a command, and return the most that each figure was, in MB."""
    process, most = subprocess.Popen(command, cwd=ROOT), dict.fromkeys(FIGURES, 0.0)
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        now = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(FIGURES)}
        most = {name: max(most[name], int(now.get(name, 0)) / 1024) for name in FIGURES}
        time.sleep(0.005)
    assert process.returncode == 0, command
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10)
    typed = parser.parse_args()
    with TemporaryDirectory() as folder:  # TMPDIR names another disk
        write(Path(folder), int(typed.gigabytes * 1e9 / (4 * WIDTH)))
        files = [f"data.inputs={folder}/x.npy", f"data.targets={folder}/y.npy", f"folder={folder}/run"]
        words = "data=arrays data.batch_size=1024 model=linear trainer.max_epochs=1 trainer.accelerator=cpu"
        imports = watch(sys.executable, "-c", IMPORTS)
        training = watch(sys.executable, "src/train.py", *words.split(), *files)
    rest = ", ".join(f"{name} {training[name] - imports[name]:,.0f} MB" for name in FIGURES)
    print(f"{typed.gigabytes:g} GB: above {imports['VmHWM']:,.0f} MB of imports, at most: {rest}")


if __name__ == "__main__":
    main()
