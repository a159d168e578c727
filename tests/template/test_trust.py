"""A run that somebody hands over is data: it runs no code, and touches nothing outside of its folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Finished, Run, make_run

from descent.build import build_node
from descent.errors import ConfigError
from descent.run.checkpoints import read
from descent.run.folder import RunFolder
from descent.run.saved import read_config
from descent.run.trust import list_allowed, read_text, read_yaml

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
PRECIOUS = ("precious/thesis.txt", "precious/csv/metrics.csv", "precious.ckpt")
LONGER = "trainer.max_epochs=4"
CSV = "lightning.pytorch.loggers.CSVLogger"
PROFILER = "lightning.pytorch.profilers.SimpleProfiler"
TOP = "lightning.pytorch.callbacks.ModelCheckpoint"
ALLOW = f"allow=[{PROFILER},{TOP}]"  # what is allowed writes no more than others
OUTSIDE = "nothing outside of it is touched"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one batch, with Lightning's checkpoints, whose state names what it removes."""
    word = f"+callbacks.top={{_target_: {TOP}, monitor: val/loss, save_top_k: 1}}"
    return make_run(tmp_path_factory, *SHORT, word).folder / "run"


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be crafted, beside a folder and files of one's own."""
    for name in PRECIOUS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("years of work")
    return Path(shutil.copytree(original, tmp_path / "run"))


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """What is in each file below a folder, but for locks and what commands print."""
    files = (path for path in folder.rglob("*") if path.name[0] != "." and not path.is_dir())
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in files}


def assert_refused(made: Path, finished: Finished, told: str = "") -> None:
    """One line, exit code 2, no code run; precious things are whole, and so is the run unless it began."""
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished
    assert told in finished.err
    mine = {name: text for name, text in snapshot(made.parent).items() if not name.startswith("run/")}
    assert mine == dict.fromkeys(PRECIOUS, b"years of work")
    assert told == OUTSIDE or (made / "metrics.csv").read_text().count("\n") == 2


def craft(made: Path, key: str, value: Any) -> None:
    """Change a value in the config of a run."""
    config = yaml.safe_load((made / "config.yaml").read_text())
    put(config, key.split("."), value)
    (made / "config.yaml").write_text(yaml.safe_dump(config))


def craft_state(made: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the checkpoint that a run goes on from."""
    file = made / "checkpoints/last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, file)


def put(node: dict[str, Any], keys: list[str], value: Any) -> None:
    for name in keys[:-1]:
        node = node[name]
    node[keys[-1]] = value


@pytest.mark.parametrize("way", ["../../precious", "../../precious.ckpt", "x/../../../precious.ckpt"])
def test_a_checkpoint_that_names_what_is_yours_neither_removes_nor_replaces_it(
    run: Run, made: Path, way: str
) -> None:
    place, score = f"{made}/checkpoints/{way}", torch.tensor(99.0)
    names = ("best_model_path", "kth_best_model_path", "last_model_path")
    scores = dict.fromkeys(("best_model_score", "kth_value", "current_score"), score)
    state = {**dict.fromkeys(names, place), **scores, "best_k_models": {place: score}, "monitor": "val/loss"}
    state["dirpath"] = f"{made}/checkpoints"

    def change(checkpoint: dict[str, Any]) -> None:
        for name, own in checkpoint["callbacks"].items():  # whatever callback reads such a state
            checkpoint["callbacks"][name] = {**own, **state} if isinstance(own, dict) else own

    craft_state(made, change)
    assert_refused(made, run(f"resume={made}", LONGER, ALLOW), OUTSIDE)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("logger.tensorboard.save_dir", "precious", ""),
        ("logger.tensorboard.save_dir", "{mine}", ""),
        ("logger.tensorboard.save_dir", "$MINE", ""),
        ("logger.tensorboard.save_dir", "file://precious", ""),
        ("logger.tensorboard.name", "../precious", ""),
        ("logger.tensorboard.sub_dir", "a/../../precious", ""),
        ("logger.tensorboard._args_", ["precious"], ""),
        ("logger.x", {"_target_": CSV, "save_dir": "precious", "name": "csv"}, ""),
        ("logger.x", {"_target_": "descent.loggers.MLflow", "tracking_uri": "file:precious"}, ""),
        ("trainer.default_root_dir", "{mine}", ""),
        ("trainer.profiler", {"_target_": PROFILER, "dirpath": "precious"}, ""),
        ("trainer.plugins", [{"_target_": "torch.nn.Identity", "dirpath": "{mine}"}], ""),
        ("callbacks.top.dirpath", "{mine}", "callbacks.top.dirpath="),
        ("callbacks.top.filename", "../../precious", "callbacks.top.filename="),
        # a format that becomes a path only once it is filled in meets the gate where files are written
        ("callbacks.top", {"_target_": TOP, "filename": "{epoch:/>9}", "auto_insert_metric_name": False},
         OUTSIDE),
        ("callbacks.x", {"_target_": "builtins.exec", "source": "1"}, "expected a name that"),
        ("loss", {"_target_": "os.system", "command": "touch evil"}, "expected a name that"),
        ("name", "${oc.env:TOKEN}", "expected a resolved config, without ${"),
        ("folder", [1], "folder"),
        ("data", [1], "describes none"),
        ("callbacks", [1], "describes none"),
        ("seed", [1], "seed"),
    ],
)  # fmt: skip
def test_a_config_that_would_write_elsewhere_or_run_code_or_lacks_a_part_is_refused(
    run: Run, made: Path, key: str, value: Any, told: str
) -> None:
    mine = str(made.parent / "precious")
    craft(made, key, value.replace("{mine}", mine) if isinstance(value, str) else value)
    finished = run(f"resume={made}", LONGER, ALLOW, MINE=mine, HOME=str(made.parent), TOKEN="secret")
    assert_refused(made, finished, told or key)


def test_what_a_person_types_is_allowed_as_long_as_it_is_typed(run: Run, made: Path) -> None:
    assert_refused(made, run(f"resume={made}", LONGER), f"_target_={TOP}: expected a name that")
    word = f"+callbacks.top={{_target_: {TOP}, monitor: val/loss, save_top_k: 3}}"
    finished = run(f"resume={made}", LONGER, word)
    assert finished.code == 0, finished.err
    assert len(list((made / "checkpoints").glob("epoch=*.ckpt"))) >= 3


@pytest.mark.parametrize("path", [".lock", "metrics.csv", "checkpoints/x", "events.out.tfevents.9", "sub"])
def test_a_folder_with_a_link_in_it_is_not_touched(run: Run, made: Path, path: str) -> None:
    (made / path).unlink(missing_ok=True)
    (made / path).symlink_to(made.parent / ("precious" if path == "sub" else "precious.ckpt"))
    before = snapshot(made)
    finished = run(f"resume={made}", LONGER)
    assert (finished.code, f"{path} is a link" in finished.err) == (2, True), finished
    assert snapshot(made) == before
    assert {name: snapshot(made.parent)[name] for name in PRECIOUS} == dict.fromkeys(
        PRECIOUS, b"years of work"
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("parts", {}),
        ("parts/folder", 3),
        ("parts/processes", None),
        ("callbacks/recorder/rows", "x"),
        ("loops/fit_loop/epoch_progress", {}),
        ("state_dict/scaling.std", "x"),
        ("epoch", "x"),
    ],
)
def test_a_state_that_lacks_a_part_is_one_line(run: Run, made: Path, path: str, value: Any) -> None:
    craft_state(made, lambda checkpoint: put(checkpoint, path.split("/"), value))
    assert_refused(made, run(f"resume={made}", LONGER, ALLOW))


# ---- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.system", "command": "touch evil"},
        {"_target_": "builtins.eval", "source": "1"},
        {"_target_": "torch.hub.load", "repo_or_dir": "x"},
        {"_target_": "torch.nn.functional.torch.hub.load", "repo_or_dir": "x"},
        {"_target_": "torch.nn.L1Loss.__init__.__globals__.get", "_args_": ["torch"]},
        {"_target_": "torch.optim.Adam.load_state_dict"},
        {"_target_": "descent.build.build_node", "key": "x", "node": {"_target_": "os.getcwd"}},
        {"_target_": "descent.run.checkpoints.read", "path": "x"},
        {"_target_": 3},
        {"_target_": ["torch.nn.Linear"]},
        {"_target_": "descent.models.MLP", "hidden": [{"_target_": "os.getcwd"}]},
        {"a": {"b": [[{"_target_": "os.getcwd"}]]}},
    ],
)
def test_a_run_handed_over_builds_what_conf_names_and_nothing_else(node: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        build_node("model", node, {"input_shape": (3,), "outputs": 2}, list_allowed())
    assert "\n" not in str(error.value)
    assert "can be imported" not in str(error.value)  # nothing was looked up, let alone run


def test_a_module_that_is_allowed_gives_its_own_and_nothing_else_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from os import system\nfrom torch.hub import load\nimport torch\n"
        "class Net(torch.nn.Linear):\n    pass\n"
        "def make(size):\n    return Net(size, size)\n"
    )
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('evil').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    own = list_allowed(more=["my_nets"])
    for allowed in (own, list_allowed(more=["my_nets.make"]), list_allowed(["model._target_=my_nets.make"])):
        assert build_node("model", {"_target_": "my_nets.make", "size": 3}, {}, allowed).in_features == 3
    for name in ("my_nets.load", "my_nets.system", "my_nets.torch.load", "evil.Net", "my_nets2.Net"):
        with pytest.raises(ConfigError, match="trust it by allow="):
            build_node("model", {"_target_": name}, {}, own)
    assert not (tmp_path / "evil").exists()


# ---- files -------------------------------------------------------------------------------------------------

NO_CONFIGS = ("", "a", "3", "[]", "a: !!bool x", "a: &a [*a]", "? [a]: 1", "\0", "a: !!python/name:os.system",
              "[" * 5000)  # fmt: skip


@pytest.mark.parametrize("text", NO_CONFIGS, ids=lambda text: text[:9].strip())
def test_a_config_that_no_run_wrote_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config(RunFolder(tmp_path))
    assert "\n" not in str(error.value)


def test_a_pipe_is_not_waited_for(run: Run, made: Path) -> None:
    os.mkfifo(pipe := made / "checkpoints/x.ckpt")
    assert_refused(made, run(f"resume={made}", LONGER))
    for reader in (read, read_text, read_yaml):
        with pytest.raises(ConfigError, match="regular file"):
            reader(pipe)  # type: ignore[operator]


@pytest.mark.parametrize("function", [os.system, eval])
def test_a_checkpoint_runs_nothing(tmp_path: Path, function: Any) -> None:
    file, proof = tmp_path / "crafted.ckpt", tmp_path / "was_run"

    class Harmful:
        def __reduce__(self) -> Any:
            return function, (f"open({str(proof)!r}, 'w')" if function is eval else f"touch {proof}",)

    torch.save({"state_dict": {}, "harm": Harmful()}, file)
    with pytest.raises(ConfigError, match="nothing in it was run"):
        read(file)
    assert not proof.exists()
