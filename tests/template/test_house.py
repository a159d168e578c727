"""How much a person has to read, counted: lines of `descent` that a command loads, and of its parts."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PARTS = {"cli": 1_100, "run": 1_010, "callbacks": 1_060}
OPTIONAL = {"sweeping.py", "schema.py", "insight.py", "averaging.py"}  # loaded where they are asked for
LOOK = """
import atexit, os, runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
def tell():
    files = [m.__file__ for n, m in sorted(sys.modules.items()) if n.partition(".")[0] == "descent"]
    for file in filter(None, files):
        print("LOADED", len(Path(file).read_text(encoding="utf-8").splitlines()), file)
    sys.stdout.flush()
atexit.register(tell)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("words", "most"),
    [(["--cfg", "job"], 1_000), (["loss=mae", "optimizer=sgd", "trainer.max_epochs=1"], 5_600)],
    ids=["--cfg job", "a run"],
)
def test_a_command_loads_few_lines(tmp_path: Path, words: list[str], most: int) -> None:
    folder = [f"folder={tmp_path}/run"] if "--cfg" not in words else []
    command = [sys.executable, "-c", LOOK, str(ROOT / "src/train.py"), *words, *folder]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loaded = [line.split()[1:] for line in out.splitlines() if line.startswith("LOADED")]
    total = sum(int(lines) for lines, _ in loaded)
    assert len(loaded) > 5
    assert total <= most, "\n".join(" ".join(one) for one in loaded) + f"\n{total} lines"


@pytest.mark.parametrize("part", PARTS)
def test_a_part_stays_small(part: str) -> None:
    files = [file for file in (ROOT / "src/descent" / part).glob("*.py") if file.name not in OPTIONAL]
    lines = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert sum(lines.values()) <= PARTS[part], lines


def test_train_reads_as_one_screen() -> None:
    lines = (ROOT / "src/train.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 75
