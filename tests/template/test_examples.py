"""The examples learn what they are about, within seconds, and nothing outside of them knows them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Run
from lightning.pytorch import seed_everything
from small import last_weights
from torch import nn

from descent.schedulers import cosine_warmup

NAMES = sorted(path.stem for path in (ROOT / "src/examples").glob("[a-z]*.py"))
TINY = "model.name=test_resnet"  # of timm
LEARNED = {  # words that make it small; and between what its last validation has to be after three epochs
    "gpt": (
        "data.length=32 model.width=32 model.depth=1 trainer.limit_train_batches=30",
        "val/perplexity",
        0,
        25,
    ),
    "segmentation": ("data.count=200 data.batch_size=8", "val/iou", 0.4, 1),
    "labels": ("data.count=1000", "val/f1", 0.2, 1),
    "vae": ("", "val/error", 0, 25),
    "gan": ("", "val/distance", 0, 0.6),
    "finetune": (f"{TINY} callbacks.unfreeze.epochs=1", "val/acc", 0.2, 1),
    "distill": ("", "val/acc", 0.75, 1),
}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_learns(run: Run, tmp_path: Path, name: str) -> None:
    small, metric, least, most = LEARNED[name]
    words = [f"experiment={name}", *small.split(), "trainer.max_epochs=3"]
    if name == "finetune":
        pytest.importorskip("timm")
    if name == "distill":
        teacher = run("trainer.max_epochs=5", f"folder={tmp_path}/teacher")
        assert teacher.code == 0, teacher.err
        words.append(f"module.teacher={tmp_path}/teacher")
    finished = run(*words)
    assert (finished.code, finished.err) == (0, "")
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert least < result["final"][metric] < most, result
    assert result["test"]
    assert metric in (tmp_path / "run/metrics.csv").read_text()


def test_gpt_reaches_the_weights_of_a_loop_written_by_hand(run: Run, tmp_path: Path) -> None:
    small = "model.width=32 model.depth=1 data.length=32 trainer.limit_train_batches=20 threads=1 logger=none"
    finished = run("experiment=gpt", *small.split(), "trainer.max_epochs=2", "trainer.accelerator=cpu")
    assert finished.code == 0, finished.err

    from examples.gpt import GPT, Characters

    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    data = Characters(length=32, batch_size=64, seed=0)
    model = GPT(vocabulary=len(data.task.names), length=32, width=32, depth=1, heads=4, dropout=0.1)
    vectors = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    groups: list[dict[str, Any]] = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices}]
    optimizer = torch.optim.AdamW(groups, lr=0.003, weight_decay=0.01, fused=True)
    scheduler = cosine_warmup(optimizer, total_steps=40, warmup=0.05, final=0.0)
    batches = data.train_dataloader()
    for epoch in range(2):
        batches.order.set_epoch(epoch)
        for (letters, following), _ in zip(batches, range(20), strict=False):
            optimizer.zero_grad()
            logits = model(letters)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()

    weights = last_weights(tmp_path / "run")
    for name, weight in model.state_dict().items():
        assert torch.equal(weights[f"model.{name}"], weight), name
    text = finished.out[finished.out.index("The ") :]
    assert len(text) > 300
    assert set(text.partition("\nTest Loss")[0]) <= set(data.task.names)


@pytest.mark.parametrize(
    ("words", "step"), [("gan", "58"), ("vae", "96"), (f"finetune {TINY} data.batch_size=32", "50")]
)
def test_an_example_that_is_interrupted_ends_with_the_same_weights(
    run: Run, tmp_path: Path, words: str, step: str
) -> None:
    if words.startswith("finetune"):
        pytest.importorskip("timm")
    common = f"experiment={words} logger=none threads=1 trainer.accelerator=cpu trainer.max_epochs=3".split()
    common += ["checkpoint.every=1epoch", "+callbacks.kill._target_=plain.Kill"]
    assert run(*common, f"folder={tmp_path}/whole").code == 0
    cut = run(*common, KILL_AT=step, KILL_WITH="15")
    assert (cut.code, "in epoch 2" in cut.err) == (128 + 15, True), cut.err
    again = run(*common, "resume=true")
    assert again.code == 0, again.err
    one, other = last_weights(tmp_path / "whole"), last_weights(tmp_path / "run")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_finetune_leaves_all_but_the_head_alone_at_first_and_has_two_rates(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    words = ["experiment=finetune", TINY, "optimizer.lr=0.001", "logger=none"]
    states = []
    for epochs, alone in ((1, 1), (2, 2), (2, 1)):
        folder = tmp_path / f"{epochs}-{alone}"
        length = (f"trainer.max_epochs={epochs}", f"callbacks.unfreeze.epochs={alone}", f"folder={folder}")
        assert run(*words, *length, "trainer.limit_train_batches=3").code == 0
        states.append(torch.load(folder / "checkpoints/last.ckpt", weights_only=True))
    one, still, free = (state["state_dict"] for state in states)
    assert [k for k in one if not torch.equal(one[k], still[k])] == ["model.fc.weight", "model.fc.bias"]
    assert len([k for k in one if not torch.equal(one[k], free[k])]) > 20
    rates = [group["lr"] for group in states[-1]["optimizer_states"][0]["param_groups"]]
    assert sorted(rates) == [0.001, 0.003]


def test_the_examples_are_short_explained_and_can_be_deleted_without_a_trace() -> None:
    own = {ROOT / "docs/examples.md", ROOT / "docs/rooms.md", Path(__file__)}
    own |= {*(ROOT / "src/examples").iterdir(), *(ROOT / f"conf/experiment/{name}.yaml" for name in NAMES)}
    words = re.compile(rf"\bexamples\.({'|'.join(NAMES)})\b|experiment=({'|'.join(NAMES)})\b|examples/")
    files = [file for folder in ("src", "conf", "tests", "docs") for file in (ROOT / folder).rglob("*.*")]
    texts = [file for file in files if file.suffix in (".py", ".yaml", ".md") and file not in own]
    assert len(texts) > 100
    assert [str(file) for file in texts if words.search(file.read_text(encoding="utf-8"))] == []
    for name in NAMES:
        assert len((ROOT / f"src/examples/{name}.py").read_text().splitlines()) <= 120
        assert f"## {name}\n" in (ROOT / "docs/examples.md").read_text(encoding="utf-8")
    gan = (ROOT / "src/examples/gan.py").read_text()
    assert {*re.findall(r"^(?:from|import) (\w+)", gan, re.MULTILINE)} == {"math", "torch", "lightning"}
