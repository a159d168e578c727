"""From a node of the config to an object: a target gets what it names."""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch
from torch import Tensor, nn

from descent.build import Config, Signature, build_node, builder, locate, read_signature
from descent.errors import ConfigError
from descent.losses import MeanAbsoluteError
from descent.task import Classes, Task, Values

HERE = __name__


class Base:
    def __init__(self, model: Any, task: Any = None) -> None:
        self.model, self.task = model, task


class Child(Base):
    """Names what it adds, and passes the rest on."""

    def __init__(self, extra: Any = None, **parts: Any) -> None:
        super().__init__(**parts)
        self.extra = extra


class Open:
    def __init__(self, first: int, **arguments: Any) -> None:
        self.arguments = {"first": first, **arguments}


class Weighted(nn.Module):
    def __init__(self, weight: Tensor | None = None, rate: float | Tensor = 0.1, sizes: Any = ()) -> None:
        super().__init__()
        self.weight, self.rate, self.sizes = weight, rate, sizes


def node(name: str, **fields: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.{name}", **fields}


def test_a_target_gets_those_offers_that_it_or_a_base_names_and_that_are_open() -> None:
    offers = {"model": 1, "task": 2, "data": 3}
    assert vars(build_node("x", node("Base", task=None), offers)) == {"model": 1, "task": 2}
    assert vars(build_node("x", node("Base", task="own"), offers)) == {"model": 1, "task": "own"}
    assert vars(build_node("x", node("Child", extra=5), offers)) == {"model": 1, "task": 2, "extra": 5}
    assert read_signature(Child) == Signature({"extra", "model", "task"}, ANY, False)
    assert read_signature(Open) == Signature({"first"}, {"first": int}, True)
    assert read_signature(MeanAbsoluteError) == Signature(set(), {}, False)
    assert build_node("x", node("Open", first=1, more=2), offers).arguments == {"first": 1, "more": 2}


def test_nodes_within_nodes_lists_partials_and_positional_arguments_are_built() -> None:
    inner, relu = node("Base", model=1), {"_target_": "torch.nn.ReLU"}
    outer = build_node("module", node("Base", model=[inner, 2], task={"a": inner, "b": 3}))
    assert [outer.model[0].model, outer.model[1], outer.task["a"].model, outer.task["b"]] == [1, 2, 1, 3]
    assert isinstance(build_node("model", {"_target_": "torch.nn.Sequential", "_args_": [relu]})[0], nn.ReLU)
    made = build_node("optimizer", {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5})
    assert made([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] == 0.5


def test_a_list_becomes_a_tensor_where_only_a_tensor_will_do_and_a_tensor_takes_a_words_place() -> None:
    loss = build_node("loss", node("Weighted", weight=[1, 5], rate=0.5, sizes=[3]))
    assert torch.equal(loss.weight, torch.tensor([1.0, 5.0]))
    assert (loss.rate, loss.sizes) == (0.5, [3])
    balanced = build_node("loss", node("Weighted", weight="balanced"), {"weight": torch.ones(2)})
    assert torch.equal(balanced.weight, torch.ones(2))


def test_parts_by_the_kind_of_task_and_parts_for_all() -> None:
    loss = {"classes": {"_target_": "torch.nn.CrossEntropyLoss"}, "values": node("Weighted"), "weight": None}
    assert isinstance(build_node("loss", loss, {"task": Values("y")}), Weighted)
    assert isinstance(build_node("loss", loss, {"task": Classes("ab")}), nn.CrossEntropyLoss)
    with pytest.raises(ConfigError, match=r"^loss\.weight=\[1\]: expected null, because the one of values"):
        build_node("loss", loss | {"weight": [1]}, {"task": Values("y")})
    with pytest.raises(ConfigError, match=r"^loss: expected a choice, because there is no default for"):
        build_node("loss", loss, {"task": Task()})
    metrics = {"classes": {"acc": node("Base")}, "values": {"mae": node("Base")}, "both": node("Base")}
    for task, names in ((Classes("ab"), {"acc", "both"}), (Task(), {"both"})):
        assert build_node("metrics", metrics, {"task": task, "model": 1}).keys() == names


def test_a_handed_over_config_may_name_what_is_allowed_and_nothing_else() -> None:
    fine = node("Base", model={"_target_": "torch.nn.ReLU"})
    for allowed in (f"{HERE}.Base", HERE):  # a name, or its module
        build_node("model", fine, allowed={allowed, "torch.nn.ReLU"})
    for name in ("os.system", f"{HERE}.Base", "torch.nn.ReLUX"):
        with pytest.raises(ConfigError, match=rf"^x\._target_={name}: expected a name .*allow=\[{name}\]"):
            build_node("x", {"_target_": name}, allowed={"torch.nn.ReLU"})


def test_a_name_that_cannot_be_meant_is_one_line_with_the_nearest_and_a_librarys_own_line_is_shown() -> None:
    for name, line in {
        "torch.nn.L1Los": "can be imported; nearest: torch.nn.L1Loss",
        "torch.nn.Linear.forwrd": "nearest: torch.nn.Linear.forward",
        "nowhere.Model": r"can be imported \(No module named 'nowhere'\)",
        "torch.nn": "a class or function, not a module",
        3: "with its module, such as torch.nn.L1Loss",
    }.items():
        with pytest.raises(ConfigError, match=line):
            locate("model._target_", name)
    with pytest.raises(ConfigError, match=r"^model: expected valid values \(.*dropout probability"):
        build_node("model", {"_target_": "torch.nn.Dropout", "p": 2.0})


@pytest.mark.parametrize(
    ("place", "library"), [("a/site-packages", True), ("dist-packages", True), ("src", False)]
)
def test_a_library_is_known_wherever_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, library: bool
) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "elsewhere.py").write_text("def net():\n    raise ValueError('too wide')\n")
    monkeypatch.syspath_prepend(tmp_path / place)
    monkeypatch.delitem(sys.modules, "elsewhere", raising=False)
    with pytest.raises(ValueError, match="too wide") as caught:
        build_node("model", {"_target_": "elsewhere.net"})
    assert isinstance(caught.value, ConfigError) == library


def test_what_the_module_does_not_name_is_not_built() -> None:
    parts = {"module": node("Child"), "model": node("Open", first=1), "loss": {"_target_": "no.such"}}
    build = builder(Config(parts))
    assert build("loss") is None
    assert build("model").arguments == {"first": 1}
