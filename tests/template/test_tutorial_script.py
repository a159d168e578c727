"""The tutorial's facts, read from what `python src/tutorial.py` prints; and the page that quotes them."""

import re
from collections import Counter

import pytest
from conftest import ROOT, finish

SCRIPT = ROOT / "src/tutorial.py"
PAGE = ROOT / "docs/tutorial.ko.md"

FACTS = """
1. (|1 - 1| + |2 - 4| + |4 - 1|) / 3 = 1.6667
1. torch.nn.L1Loss gives 1.6667
1. a name: Child True, ForgetfulChild False
2. parameters of the criterion: 0, of the model: 3
3. weight.grad at first: None
3. after backward: tensor([[-4., -5.]])
3. after a second backward: tensor([[ -8., -10.]])
3. after zero_grad: None
4. each parameter of the optimizer is the model's: True
5. optimizer.step() against p -= lr * p.grad: 0
6. train(): equal images give equal outputs: False
6. eval(): equal images give equal outputs: True
7. in training_step: training True, gradients True; in validation_step: training False, gradients False
7. largest difference of a weight: 0
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    finished = finish([str(SCRIPT)], tmp_path_factory.mktemp("anywhere"), {}, 120)
    assert finished.code == 0, finished.err
    assert "Warning" not in finished.err
    return finished.out.splitlines()


def test_the_script_prints_every_fact_and_both_loops_print_the_same_epochs(printed: list[str]) -> None:
    assert [line for line in FACTS.split("\n")[1:-1] if line not in printed] == []
    (error,) = (line for line in printed if "without super().__init__()" in line)
    assert re.search(r"AttributeError: .*__init__", error)
    marks = ("7. largest difference of a figure: ", "8. mean over the batches", "8. mean over the samples")
    found = [line for line in printed if line.startswith(marks)]
    difference, over_batches, over_samples = (float(line.split(": ")[-1]) for line in found)
    assert difference < 1e-5
    assert over_batches != over_samples
    lines = [line for line in printed if line.startswith("Epoch ")]
    assert [line.split(",")[0] for line in lines] == 2 * [f"Epoch {epoch}/10" for epoch in range(1, 11)]
    figures = [[float(figure) for figure in re.findall(r": ([\d.]+)", line)] for line in lines]
    for by_hand, by_lightning in zip(figures[:10], figures[10:], strict=True):
        assert len(by_hand) == 4
        assert by_hand == pytest.approx(by_lightning, abs=2e-4)
    assert figures[9][3] > 0.85
    assert over_samples == pytest.approx(figures[9][2], abs=2e-4)


def test_the_page_quotes_the_script_and_what_it_prints(printed: list[str]) -> None:
    script, page = SCRIPT.read_text(encoding="utf-8"), PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    assert [block for block in blocks if block not in script] == []

    def without_figures(line: str) -> str:  # a figure after training depends on the machine
        return re.sub(r"\d\.\d{4}|\de-\d\d", "…", line)

    results = "".join(re.findall(r"```text\n(.*?)```", page, re.DOTALL)).splitlines()
    known = {without_figures(line) for line in printed}
    assert results
    assert [line for line in results if line != "…" and without_figures(line) not in known] == []


def test_jupytext_opens_the_script_as_a_notebook() -> None:
    jupytext = pytest.importorskip("jupytext")
    script = SCRIPT.read_text(encoding="utf-8")
    kinds = Counter(cell.cell_type for cell in jupytext.read(SCRIPT).cells)
    assert kinds == {"markdown": script.count("# %% [markdown]\n"), "code": script.count("# %%\n")}
    assert kinds["code"] >= 10
