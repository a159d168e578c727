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

from checks import CONF, UsageError, check, find, options
from command_line import register_resolvers

GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
CHOICES = [(group, word) for group in GROUPS for word in options(group)]
NEEDS_EXTRA = {"mnist", "fashion_mnist", "cifar10", "timm"}
NEWER_THAN_SOME = {("torch.optim.LBFGS", "maximize")}  # arguments that the oldest supported torch lacks


def compose(*words: str) -> DictConfig:
    register_resolvers()
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
    config = compose(f"{group}={word}")
    needs_gpu = config.trainer.accelerator == "gpu" and not torch.cuda.is_available()
    if needs_gpu:
        with pytest.raises(UsageError, match=r"accelerator=gpu: expected what this machine has: cpu"):
            check(config, {})
    else:
        before = OmegaConf.to_yaml(config)
        after = OmegaConf.to_yaml(check(config, {}))
        removed = [
            line.strip().partition(":")[0] for line in before.splitlines() if line not in after.splitlines()
        ]
        assert {name for name in removed if name} <= {name for _, name in NEWER_THAN_SOME}


@pytest.mark.parametrize(("group", "word"), CHOICES)
def test_every_argument_of_the_installed_signature_is_listed_and_no_other(group: str, word: str) -> None:
    not_listed = {
        "optimizer": {"params"},
        "trainer": {"callbacks", "logger"},
        "model": {"input_shape", "outputs"},
        "scheduler": {"optimizer"},
        "loss": {"size_average", "reduce"},  # deprecated by torch, in favour of `reduction`
    }
    config = OmegaConf.to_container(compose(f"{group}={word}"), resolve=True)
    assert isinstance(config, dict)
    for key, node in targets(config.get(group), group):
        listed = {name for name in node if not name.startswith("_")}
        parameters = inspect.signature(find(key, node["_target_"])).parameters.values()
        open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        taken = {p.name for p in parameters if p.kind not in open_ended}
        if key == "scheduler" and "scheduler" in node:  # Schedule passes the rest on
            inner = set(inspect.signature(find(key, node["scheduler"]["_target_"])).parameters)
            taken = inner | {"scheduler", "interval"} | ({"monitor"} if word == "plateau" else set())
        if key == "scheduler.scheduler":
            continue
        taken -= not_listed.get(group, set())
        newer = {name for target, name in NEWER_THAN_SOME if target == node["_target_"]}
        assert listed - newer == taken - newer, key


@pytest.mark.parametrize("word", [w for w in options("optimizer") if w not in ("sparse_adam", "muon")])
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
    for name, parameter in inspect.signature(find("optimizer", node["_target_"])).parameters.items():
        if name in node and name not in own and parameter.default is not inspect.Parameter.empty:
            value = tuple(node[name]) if isinstance(node[name], list) else node[name]
            assert value == parameter.default, name


def test_nothing_of_torch_optim_is_missing() -> None:
    offered = {
        compose(f"optimizer={word}").optimizer._target_.rpartition(".")[2] for word in options("optimizer")
    }
    known = {name for name, value in vars(torch.optim).items() if inspect.isclass(value)} - {"Optimizer"}
    assert known <= offered


def test_every_data_set_that_comes_with_a_package_builds() -> None:
    for word in set(options("data")) - NEEDS_EXTRA - {"table", "images"}:  # whose files are a person's own
        data = instantiate(compose(f"data={word}").data)
        inputs, _ = next(iter(data.train_dataloader()))
        assert inputs.shape[1:] == data.input_shape


# ---- every choice trains, one command a group: a sweep over its words ----------------------------


def sweep(run: Run, group: str, words: list[str], *more: str) -> None:
    folder = "folder=${hydra:runtime.cwd}/${name}"
    short = ["trainer.fast_dev_run=2", "trainer.accelerator=cpu"]
    finished = run("-m", f"{group}={','.join(words)}", folder, *short, *more)
    assert finished.code == 0, finished.err
    assert finished.out.count("Epoch 1/1, Train Loss: ") == len(words), finished.out
    assert "nan" not in finished.out


def test_every_loss_trains(run: Run) -> None:
    sweep(run, "loss", options("loss"))


def test_every_optimizer_trains(run: Run) -> None:
    words = [word for word in options("optimizer") if word != "sparse_adam"]
    sweep(run, "optimizer", [w for w in words if w != "muon" or hasattr(torch.optim, "Muon")])


def test_every_scheduler_trains(run: Run) -> None:
    sweep(run, "scheduler", options("scheduler"), "optimizer=sgd", "optimizer.momentum=0.9")


def test_every_model_trains(run: Run) -> None:
    sweep(run, "model", [word for word in options("model") if word not in NEEDS_EXTRA])


def test_every_set_of_callbacks_trains(run: Run) -> None:
    with_lines = [word for word in options("callbacks") if word not in ("none", "checkpoint")]
    sweep(run, "callbacks", with_lines)
    assert run("callbacks=none", "logger=none", "trainer.max_epochs=1").code == 0
    assert run("callbacks=checkpoint", "logger=csv", "trainer.max_epochs=1").code == 0


@pytest.mark.skipif(
    "cuda" in AcceleratorRegistry.available_accelerators() and torch.cuda.is_available(), reason="GPU"
)
def test_fsdp_without_a_gpu_is_one_line(run: Run) -> None:
    finished = run("trainer=fsdp")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
