"""Every file of conf/: it composes, says what is installed, builds, and trains."""

import inspect
from collections.abc import Iterator
from typing import Any

import hydra
import pytest
import torch
from conftest import Run
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.accelerators import AcceleratorRegistry
from omegaconf import DictConfig, OmegaConf, open_dict

from descent.cli.check import check
from descent.cli.compose import list_fields
from descent.cli.machine_limits import check_machine
from descent.cli.paths import CONF, list_choices, list_groups
from descent.cli.resolvers import register_resolvers
from descent.cli.signatures import read_signature
from descent.run.trust import kind_of, resolve

CHOICES = [(group, word) for group in list_groups() for word in list_choices(group)]
NEEDS_EXTRA = {"mnist", "fashion_mnist", "cifar10", "timm"}
NEWER_THAN_SOME = {("torch.optim.LBFGS", "maximize")}  # arguments that the oldest supported torch lacks


def compose(*words: str) -> DictConfig:
    register_resolvers()
    if "data=samples" in words:  # a function of one's own
        words = (*words, "data.source._target_=descent.data.digits.digits")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", ["name=test", "folder=run", *words], return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # as a command does, which knows its words
    with open_dict(config):
        del config["hydra"]
    return config


def targets(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a config that names a class or function, with its key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from targets(value, f"{key}.{name}")


@pytest.mark.parametrize(("group", "word"), CHOICES)
def test_a_choice_begins_with_a_line_on_what_it_is(group: str, word: str) -> None:
    lines = (CONF / group / f"{word}.yaml").read_text().splitlines()
    line = next(line for line in lines if "@package" not in line)
    assert line.startswith("# ")
    assert 10 < len(line) < 90


@pytest.mark.parametrize(("group", "word"), CHOICES)
def test_a_choice_composes_and_every_value_is_what_its_target_takes(group: str, word: str) -> None:
    config = OmegaConf.to_container(compose(f"{group}={word}"), resolve=True)
    assert isinstance(config, dict)
    plain = {str(key): value for key, value in config.items()}
    found = check(plain, {}, list_fields("train"))
    assert found.problems == []
    dropped = {(target, key.rpartition(".")[2]) for key, target in found.left_out.items()}
    assert dropped <= NEWER_THAN_SOME
    lines = [problem.line({}) for problem in check_machine(plain)]
    needs_gpu = config["trainer"]["accelerator"] == "gpu" and not torch.cuda.is_available()
    told = ["trainer.accelerator=gpu: expected what this machine has: cpu, or auto"] if needs_gpu else []
    assert lines == told


@pytest.mark.parametrize(("group", "word"), CHOICES)
def test_every_argument_of_the_installed_signature_is_listed_and_no_other(group: str, word: str) -> None:
    filled = {  # by code
        "optimizer": {"params"},
        "trainer": {"callbacks", "logger", "default_root_dir"},
        "model": {"input_shape", "outputs"},
        "schedule": {"optimizer"},
        "loss": {"size_average", "reduce"},  # deprecated by torch, in favour of `reduction`
        "logger": {"root_dir"},  # TensorBoard's, which gets save_dir for it
        "data": {"like"},
        "module": {"model", "criterion", "optimizer", "schedule", "metrics", "scaling"},
    }
    config = OmegaConf.to_container(compose(f"{group}={word}"), resolve=True)
    assert isinstance(config, dict)
    for key, node in targets(config.get(group), group):
        kind = kind_of(key)
        if kind in ("scheduler", "source") or (kind == "part" and node.get("_partial_")):  # listed above it
            continue
        inner = next((n for n, v in node.items() if isinstance(v, dict) and v.get("_partial_")), None)
        names = [key] if inner is None else [key, f"{key}.{inner}"]
        targets_of = [node["_target_"]] if inner is None else [node["_target_"], node[inner]["_target_"]]
        found = [resolve(name, target, kind_of(name)) for name, target in zip(names, targets_of, strict=True)]
        taken = read_signature(found[0], found[1] if inner else None).names - filled.get(kind, set())
        if kind == "schedule" and word != "plateau":
            taken -= {"monitor"}
        listed = {name for name in node if not name.startswith("_")}
        newer = {name for target, name in NEWER_THAN_SOME if target == node["_target_"]}
        assert listed - newer <= taken, key
        assert kind == "metric" or listed - newer == taken - newer, key


@pytest.mark.parametrize("word", [w for w in list_choices("optimizer") if w not in ("sparse_adam", "muon")])
def test_an_optimizers_defaults_are_torchs_but_for_those_the_file_explains(word: str) -> None:
    node = OmegaConf.to_container(compose(f"optimizer={word}").optimizer, resolve=True)
    assert isinstance(node, dict)
    own = {
        "adam": {"fused"},
        "adamw": {"fused"},
        "sgd": {"lr"},
        "rmsprop": {"lr"},
        "lbfgs": {"lr", "max_iter", "history_size"},
    }.get(word, set())
    for name, parameter in inspect.signature(
        resolve("optimizer", node["_target_"], "optimizer")
    ).parameters.items():
        if name in node and name not in own and parameter.default is not inspect.Parameter.empty:
            value = tuple(node[name]) if isinstance(node[name], list) else node[name]
            assert value == parameter.default, name


def test_nothing_of_torch_optim_is_missing() -> None:
    offered = {
        compose(f"optimizer={word}").optimizer._target_.rpartition(".")[2]
        for word in list_choices("optimizer")
    }
    known = {name for name, value in vars(torch.optim).items() if inspect.isclass(value)} - {"Optimizer"}
    assert known <= offered


def test_every_data_set_that_comes_with_a_package_builds() -> None:
    for word in (
        set(list_choices("data")) - NEEDS_EXTRA - {"table", "images"}
    ):  # whose files are a person's own
        data = instantiate(compose(f"data={word}").data)
        inputs, _ = next(iter(data.train_dataloader()))
        assert inputs.shape[1:] == data.input_shape


# ---- every choice trains, one command a group: a sweep over its words ----------------------------


def sweep(run: Run, group: str, words: list[str], *more: str) -> None:
    short = ["trainer.fast_dev_run=2", "trainer.accelerator=cpu"]
    finished = run("-m", f"{group}={','.join(words)}", "folder=sweep", *short, *more)
    assert finished.code == 0, finished.out + finished.err
    logs = [path.read_text() for path in finished.folder.glob("sweep/*/log.txt")]
    assert len([log for log in logs if "Epoch 1/1, Train Loss: " in log]) == len(words)
    assert not any("nan" in log for log in logs)


def test_every_loss_trains(run: Run) -> None:
    sweep(run, "loss", list_choices("loss"))


def test_every_optimizer_trains(run: Run) -> None:
    words = [word for word in list_choices("optimizer") if word != "sparse_adam"]
    sweep(run, "optimizer", [w for w in words if w != "muon" or hasattr(torch.optim, "Muon")])


def test_every_scheduler_trains(run: Run) -> None:
    sweep(run, "scheduler", list_choices("scheduler"), "optimizer=sgd", "optimizer.momentum=0.9")


def test_every_model_trains(run: Run) -> None:
    sweep(run, "model", [word for word in list_choices("model") if word not in NEEDS_EXTRA])


def test_every_set_of_callbacks_trains(run: Run) -> None:
    with_lines = [word for word in list_choices("callbacks") if word not in ("none", "checkpoint")]
    sweep(run, "callbacks", with_lines)
    assert run("callbacks=none", "logger=none", "trainer.max_epochs=1").code == 0
    assert run("callbacks=checkpoint", "logger=csv", "trainer.max_epochs=1").code == 0


@pytest.mark.skipif(
    "cuda" in AcceleratorRegistry.available_accelerators() and torch.cuda.is_available(), reason="GPU"
)
def test_fsdp_without_a_gpu_is_one_line(run: Run) -> None:
    finished = run("trainer=fsdp")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
