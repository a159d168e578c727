"""Wrong command lines by the hundred, tried in one process: `python tests/template/fuzz.py 9`, each ninth.

Prints a line of JSON for each: its words, its exit code or the traceback, what it printed on stderr, and how
long it took. Each run that starts is cut to one batch of each split. A file of JSON names other lines.
"""

import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))

import torch  # noqa: E402
from hydra.core.global_hydra import GlobalHydra  # noqa: E402

import train  # noqa: E402
from descent.cli import main as cli  # noqa: E402
from descent.cli.compose import compose  # noqa: E402
from descent.cli.wrong import list_keys  # noqa: E402
from descent.paths import list_groups  # noqa: E402

VALUES = [
    "abc", "-1", "1.5", "1e400", ".nan", "true", "null", "''", "[]", "{}", "{a:1}", "[[1]]",
    "99999999999999999999", "${missing}", "${oc.env:MISSING}", "${seed", "a=b", "[1", "'", "../..", "한글",
    "best-{epoch}", "a(b", "it's", "1e39", "a\\", "#", "_", "0x10", "a b", "1,2", "mae", "$(id)", "1e-400",
]  # fmt: skip
LINES = [
    "loss=mae=mse", "=mae", "~trainer", "~data", "~optimizer.lr", "~callbacks", "loss=../loss/mae",
    "loss=[mae]", "model=null", "scheduler=null", "++optimizer.foo=1", "++seed=abc",
    "loss._target_=os.system", "loss._target_=nowhere.Loss", "loss._target_=",
    "model._target_=torch.nn.Linear", "optimizer._target_=torch.optim.NoSuch",
    "trainer._target_=torch.nn.Module", "data._target_=builtins.dict", "optimizer=sgd optimizer=adam",
    "resume=true", "resume=1", "resume=[]", "checkpoint.every=never", "checkpoint.every=5",
    "callbacks.checkpoint.monitor=x", "folder=/proc/nothing/run", "folder=''", "name=''", "name=a/b", "-c",
    "-m --cfg=job", "--config-dir=nowhere", "++foo=1", "+loss.x=1", "metrics=[accuracy,nope]", "metrics=[]",
    "module=null", "name=a,b", "scheduler._target_=torch.nn.Softmax",
    "+callbacks.x={_target_:lightning.pytorch.callbacks.BatchSizeFinder}", "+callbacks.x=1",
    "+metrics.x={_target_:torch.nn.L1Loss}", "data._target_=torch.nn.Linear",
    "logger.tensorboard.save_dir=/proc/x",
    "callbacks.nan_guard._target_=lightning.pytorch.callbacks.DeviceStatsMonitor",
    "logger.tensorboard._target_=lightning.pytorch.loggers.WandbLogger", "loss._target_=torch.nn.CTCLoss",
    "loss._target_=torch.nn.GaussianNLLLoss", "model._target_=torch.nn.Embedding", "~trainer.max_steps",
    "logger.tensorboard=null", "metrics.acc=null", "metrics.classification.acc=null",
    "metrics.classification=null", "+trainer.logger=false", "+model.outputs=3", "+loss.task=1",
    "+logger.tensorboard.x=1", "~callbacks.checkpoint", "mode._target_=x", "init_from=/dev/null",
    "freeze=[nothing]", "seed=${oc.env:NOTHING_SET}", "callbacks.progress=off", "run=x",
    "~trainer.max_epochs", "loss=nll data=diabetes", "model=cnn data=diabetes",
    "scheduler=one_cycle trainer.max_epochs=0", "trainer.val_check_interval=1000000",
    "trainer.enable_checkpointing=false", "trainer.limit_train_batches=0", "trainer.limit_val_batches=0",
    "data.val_fraction=0.6 data.test_fraction=0.6", "data.test_fraction=0.999",
    "optimizer=lbfgs trainer.accumulate_grad_batches=4", "optimizer=lbfgs trainer.precision=16-mixed",
    "optimizer=muon model.hidden=[]", "trainer.strategy=fsdp", "trainer.strategy=abc", "trainer.profiler=abc",
    "trainer.gradient_clip_algorithm=abc", "trainer.gradient_clip_val=-1",
    "optimizer=adam optimizer.momentum=0.9", "optimizer=sgd optimizer.nesterov=true", "optimizer.betas=[2,3]",
    "scheduler=step scheduler.step_size=0", "scheduler=cosine scheduler.T_max=0",
    "scheduler=cyclic scheduler.base_lr=abc", "scheduler=plateau scheduler.monitor=nothing",
    "scheduler=multi_step scheduler.milestones=abc",
    "callbacks=early_stopping callbacks.early_stopping.monitor=nothing", "monitor=test/loss",
    "callbacks=early_stopping callbacks.early_stopping.patience=-1", "model=timm", "data=mnist",
    "model=timm model.name=resnet1000", "loss=huber loss.delta=-1", "loss=cross_entropy loss.weight=[1]",
    "trainer.max_time=abc", "trainer.overfit_batches=5000", "trainer.limit_train_batches=1.5",
    "trainer.fast_dev_run=-1", "model.hidden=[1000000000]", "trainer.devices=0 trainer.accelerator=cpu",
    "trainer.val_check_interval=0", "callbacks.checkpoint.save_top_k=5", "trainer.overfit_batches=1,2",
    "loss=mae loss.weight=balanced", "scheduler=plateau scheduler.interval=step scheduler.monitor=train/loss",
]  # fmt: skip


def command_lines() -> list[list[str]]:
    """The same ones each time: every kind, and a sample of all keys with all values."""
    chance = random.Random(0)
    known = list(list_keys(compose("train", ["name=x", "folder=x"]).config))
    typos = [f"{key[:at]}{key[at + 1 :]}=1" for key in known for at in [chance.randrange(len(key))]]
    apart = ("name", "folder", "logger.tensorboard.flush_secs")  # a thread of TensorBoard's reads the last
    values = [f"{key}={value}" for key in known for value in VALUES if key not in apart]
    words = [f"{group}={word}" for group in list_groups() for word in ("nothing", "Mae", "1", "[]", "a.b")]
    return [line.split(" ") for line in LINES] + [
        [word] for word in chance.sample(typos, 50) + chance.sample(values, 330) + words
    ]


def short(config: Any, run: Any) -> Any:
    """The job, with one batch of each split where the words ask for more."""
    trainer = config["trainer"]
    epochs = trainer.get("max_epochs")
    if epochs == "auto" or (type(epochs) is int and epochs > 1):
        trainer["max_epochs"] = 1
    for split in ("train", "val", "test"):
        if trainer.get(f"limit_{split}_batches") is None:
            trainer[f"limit_{split}_batches"] = 2
    return train.train(config, run)


def attempt(words: list[str], folder: Path) -> dict[str, Any]:
    """One command line, as `python src/train.py words` would take it."""
    placed = any(word.startswith("folder=") for word in words) or words[-1] in ("--cfg", "-c", "--config-dir")
    line = [*words, *([] if placed else [f"folder={folder}/run"])]
    err, typed, begun = io.StringIO(), dict[str, str](), time.monotonic()
    code: Any
    GlobalHydra.instance().clear()
    with redirect_stdout(io.StringIO()), redirect_stderr(err):
        try:
            code = cli.attempt(lambda: cli.run_line(short, "train", line, typed), typed)
        except BaseException:
            code = traceback.format_exc()
    left = [path.name for path in folder.iterdir()]
    for name in left:
        shutil.rmtree(folder / name, ignore_errors=True)
    seconds = round(time.monotonic() - begun, 2)
    return {"words": words, "code": code, "err": err.getvalue(), "left": left, "seconds": seconds}


def fault(tried: dict[str, Any]) -> str:
    """What is wrong with how a command line ended; empty where it ran, or was refused in one line."""
    if isinstance(tried["code"], str) or "Traceback" in tried["err"]:
        return f"traceback: {tried['code']} {tried['err'][-500:]}"
    if tried["code"] and len(tried["err"].strip().splitlines()) != 1:
        return f"exit {tried['code']}, and not one line: {tried['err'][-500:]}"
    if tried["code"] and tried["left"]:
        return f"left {tried['left']}"
    return f"took {tried['seconds']} s" if tried["seconds"] > 60 else ""


def main() -> None:
    asked = sys.argv[1]
    lines = command_lines()[:: int(asked)] if asked.isdigit() else json.loads(Path(asked).read_text())
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        for words in lines:
            print(json.dumps(attempt(words, Path(temporary))), flush=True)


if __name__ == "__main__":
    main()
