"""What a config may name: things of the right kind, and in a run's folder harmless ones alone."""

import builtins
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from descent.cli.resuming import list_targets
from descent.errors import ConfigError
from descent.run.folder import RunFolder, read_yaml
from descent.run.resume import require_harmless
from descent.run.trust import KINDS, bases_of, build, kind_of, resolve, resolve_trusted, targets
from descent.sweep.pictures import read_metrics
from descent.sweep.plan import read_result

PACKAGES = ("torch.nn", "torch.optim", "torchmetrics", "lightning.pytorch", "descent")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("model", "model"),
        ("model.backbone", "part"),
        ("scheduler", "schedule"),
        ("scheduler.scheduler", "scheduler"),
        ("data.source", "source"),
        ("callbacks.checkpoint", "callback"),
        ("logger.csv", "logger"),
        ("metrics.acc", "metric"),
        ("metrics.regression.mae", "metric"),
        ("trainer.strategy", "part"),
    ],
)
def test_a_key_tells_the_kind(key: str, kind: str) -> None:
    assert kind_of(key) == kind


@pytest.mark.parametrize(
    ("path", "kind", "told"),
    [
        (3, "model", "expected a class or function with its module, such as torch.nn.L1Loss"),
        ("Linear", "model", "expected a class or function with its module"),
        ("torch.nn", "model", "a function that returns one, not a module"),
        ("torch.pi", "model", "not a value of type float"),
        ("torch.nn.Module", "model", "not the class Module"),
        ("torchmetrics.Metric", "metric", "not an abstract class"),
        ("torch.nn.Linaer", "model", "can be imported; nearest: torch.nn.Linear"),
        ("no_such_module.a.B", "model", "can be imported (No module named 'no_such_module')"),
        ("torch.nn.Softmax", "scheduler", "not the class Softmax"),
        ("lightning.pytorch.Trainer", "logger", "not the class Trainer"),
        ("builtins.print", "callback", "not a function"),
        ("builtins.print", "source", "expected a function that returns Samples, not a function written in C"),
        ("torch.nn.Linear", "source", "not the class Linear"),
    ],
)
def test_what_is_of_another_kind_is_one_line(path: object, kind: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve("key", path, kind)
    assert str(error.value).startswith(f"key={path}: expected ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_of_ones_own_names_classes_functions_and_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_things.py").write_text(
        "from functools import cache\n"
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    @classmethod\n"
        "    def small(cls, input_shape, outputs):\n"
        "        return cls(input_shape[0], outputs)\n"
        "@cache\n"
        "def data():\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert issubclass(resolve("model", "my_things.Net", "model"), torch.nn.Linear)  # type: ignore[arg-type]
    assert resolve("model", "my_things.Net.small", "model")((3,), 2).weight.shape == (2, 3)
    assert resolve("data.source", "my_things.data", "source")() is None
    (tmp_path / "broken_things.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=r"can be imported \(division by zero\)"):
        resolve("model", "broken_things.Net", "model")


CALLS_ANYTHING = {
    "_target_": "lightning.pytorch.cli.instantiate_class",
    "args": [],
    "init": {"class_path": "os.system", "init_args": {"command": "touch evil"}},
}


@pytest.mark.parametrize(
    "node",
    [
        CALLS_ANYTHING,
        {"_target_": "descent.inference.load", "folder": "x", "allow": ["os"]},
        {"_target_": "descent.inference.predictor.load", "folder": "x", "allow": ["os"]},
        {"_target_": "descent.run.trust.build", "node": CALLS_ANYTHING},
        {"_target_": "descent.run.checkpoints.read", "path": "x"},
        {"_target_": "os.system", "command": "touch evil"},
        {"_target_": "builtins.eval", "source": "1"},
        {"_target_": "torch.load", "f": "x"},
        {"_target_": "torch.nn.functional.torch.hub.load", "repo_or_dir": "x"},
        {"_target_": "torch.nn.Module.__init_subclass__"},
        {"_target_": "torch.nn.Sequential.__init__.__globals__"},
        {"_target_": "torch.nn.init.warnings.sys"},
        {"_target_": "torch.optim.Adam"},
        {"_target_": "torchmetrics.text.BERTScore"},
        {"_target_": 3},
        {"_target_": None},
        {"_target_": ["torch.nn.Linear"]},
        {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "os.getcwd"}]},
        {"_target_": "torch.nn.Sequential", "block": CALLS_ANYTHING},
    ],
)
def test_a_run_handed_over_builds_no_model_but_a_network(
    node: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        build("model", node)
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_nothing_is_imported_for_a_name_that_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('evil').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    for key in (
        "model",
        "loss",
        "data",
        "data.source",
        "callbacks.x",
        "metrics.x",
        "optimizer",
        "model.part",
    ):
        with pytest.raises(ConfigError, match="trust a module of your own with allow="):
            resolve_trusted(f"{key}._target_", "evil.Net", kind_of(key))
    assert "evil" not in sys.modules


def test_a_module_that_is_allowed_gives_what_it_defines_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from os import system\n"
        "from torch.hub import load\n"
        "import torch\n"
        "class Net(torch.nn.Linear):\n    pass\n"
        "def make(size):\n    return Net(size, size)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert build("model", {"_target_": "my_nets.make", "size": 3}, ["my_nets"]).in_features == 3
    assert build("model", {"_target_": "my_nets.make", "size": 3}, ["my_nets.make"]).in_features == 3
    node = {"_target_": "my_nets.Net", "in_features": 3, "out_features": 2, "_partial_": True}
    assert build("model", node, ["my_nets"])(bias=False).bias is None
    for name in ("load", "system", "torch.load"):
        with pytest.raises(ConfigError):
            build("model", {"_target_": f"my_nets.{name}"}, ["my_nets"])


def test_what_conf_names_is_trusted_where_it_is_of_the_right_kind_alone(tmp_path: Path) -> None:
    node = {"_target_": "descent.models.timm", "name": "resnet18", "pretrained": False}
    require_harmless(RunFolder(tmp_path), {"model": node}, {}, list_targets())
    with pytest.raises(ConfigError, match=r"logger\.x\._target_=descent.models.timm: expected"):
        require_harmless(RunFolder(tmp_path), {"logger": {"x": node}}, {}, list_targets())
    crafted: tuple[Any, ...] = ({}, [1], None)
    for target in crafted:
        with pytest.raises(ConfigError, match=r"model\._target_="):
            require_harmless(RunFolder(tmp_path), {"model": {"_target_": target}}, {}, list_targets())


def test_values_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ConfigError, match="model: expected values that it takes"):
        build("model", {"_target_": "torch.nn.Linear", "in_features": 3})
    with pytest.raises(ConfigError, match="model: expected values that it takes"):
        build("model", {"_target_": "torch.nn.Linear", 3: 3})
    with pytest.raises(ConfigError, match=r"model\.dropout"):
        node = {"_target_": "descent.models.MLP", "hidden": [], "dropout": 2.0}
        build("model", node, input_shape=(3,), outputs=2)
    nested: Any = 1
    for _ in range(1000):
        nested = [nested]
    for check in (lambda: build("model", nested), lambda: list(targets({"model": nested}))):
        with pytest.raises(ConfigError, match="at most 20 nodes within nodes"):
            check()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 1\n" * 60_000, "it has more values than any run writes"),
        ("a: " + ":".join(["59"] * 300_000), "it has a number that is longer than any run writes"),
        (f"a: 0x{'f' * 5000}", "it has a number that is longer than any run writes"),
        ("#" * 2_000_000, "this one is too large"),
        ("a: &a [b, b]\nc: [*a, *a]", "it has an alias, which no run writes"),
    ],
    ids=lambda text: text[:9],
)
def test_what_is_read_of_a_folder_is_bounded_before_it_is_read(tmp_path: Path, text: str, told: str) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_yaml(folder.config)
    for file in (folder.result, folder.metrics, folder.overrides):
        os.mkfifo(file)
    with pytest.raises(ConfigError, match="there is no regular file"):
        read_yaml(folder.overrides)
    assert (read_result(folder), read_metrics(folder)) == ({}, [])  # and waits for nothing
    for file in (folder.result, folder.metrics):
        file.unlink()
        file.touch()
        os.truncate(file, 1 << 40)  # that the disk does not hold
    assert (read_result(folder), read_metrics(folder)) == ({}, [])


def test_of_every_callable_of_the_libraries_none_but_the_expected_kinds_gets_through() -> None:
    bases = {kind: tuple(pkgutil.resolve_name(base) for base in bases_of(kind)) for kind in KINDS}
    every = tuple(base for of_kind in bases.values() for base in of_kind)
    lightning = ("Strategy", "Profiler", "Precision")
    tried = dict.fromkeys(KINDS, 0)
    passed = dict.fromkeys(KINDS, 0)
    for path in callables():
        for kind, rule in KINDS.items():
            tried[kind] += 1
            try:
                found = resolve_trusted("key", path, kind)
            except ConfigError:
                continue
            passed[kind] += 1
            if path in (rule.functions or ()):
                continue
            assert inspect.isclass(found), (path, kind)
            names = {base.__name__ for base in found.__mro__}
            right = issubclass(found, bases[kind]) if bases[kind] else issubclass(found, every)
            assert right or (kind == "part" and names & {*lightning}), (path, kind)
            assert found.__module__.partition(".")[0] in ("torch", "torchmetrics", "lightning", "descent")
    assert min(tried.values()) > 3000
    assert passed["model"] > 100
    assert passed["optimizer"] > 10
    assert passed["metric"] > 50


def callables() -> Iterator[str]:
    """Every public name of a callable in the packages that a run's config may name, and in some others."""
    for name in (*PACKAGES, "lightning.pytorch.cli", "descent.inference", "descent.run.checkpoints"):
        import_module(name)
    for name, module in sorted(sys.modules.items()):
        if any(name == package or name.startswith(f"{package}.") for package in PACKAGES):
            yield from (f"{name}.{word}" for word in public(module))
    for module in (torch, os, builtins):
        yield from (f"{module.__name__}.{word}" for word in public(module))


def public(module: Any) -> list[str]:
    return [word for word, value in list(vars(module).items()) if word[0] != "_" and callable(value)]
