"""`compile=true`: the same training, compiled where there is a compiler."""

import shutil
from pathlib import Path

import pytest
from conftest import Run

WORDS = ("compile=true", "trainer.accelerator=cpu", "trainer.max_epochs=2", "data.batch_size=64")


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch's CPU back end needs a C++ compiler")
def test_a_compiled_run_trains_as_the_same_run_does_uncompiled(run: Run, tmp_path: Path) -> None:
    compiled = run(*WORDS, f"folder={tmp_path}/compiled", CUDA_HOME="/usr/local")  # a toolkit, maybe no GPU
    eager = run(*WORDS[1:], f"folder={tmp_path}/eager")
    assert (compiled.code, compiled.err) == (0, "")
    assert "no working compiler" not in compiled.out
    assert "graph is not in TensorBoard" not in compiled.out

    def figures(out: str) -> list[float]:
        words = " ".join(line for line in out.splitlines() if line.startswith("Epoch ")).split()
        return [float(word.rstrip(",")) for word in words if "." in word]

    assert figures(compiled.out) == pytest.approx(figures(eager.out), abs=2e-3)


def test_without_a_compiler_one_line_says_so_and_the_run_goes_on(run: Run, tmp_path: Path) -> None:
    nothing = tmp_path / "no_compiler"
    nothing.mkdir()
    finished = run(*WORDS, PATH=str(nothing), CXX="", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert finished.code == 0, finished.err
    said = [line for line in finished.out.splitlines() if line.startswith("compile=true: ")]
    assert len(said) == 1
    assert said[0].startswith("compile=true: no working compiler here, so the model runs as it is (")
    assert "Epoch 2/2" in finished.out
