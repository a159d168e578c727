"""The command line as users meet it: words, help, and bad input told in one line."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, TRAIN, Finished, Run, make_run
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from descent.cli.describe import set_text
from descent.cli.paths import CONF, list_choices
from descent.cli.signatures import accepts, expectation, read_signature
from descent.cli.words import FLAGS, parse, quote_literally, quote_values, split
from descent.errors import ConfigError
from descent.run.resume import is_word

TYPOS = [
    ("loss=mea", "one of", "mae"),
    ("optimiser=sgd", "a key of the config", "optimizer"),
    ("optimizer.lr=abc", "a number", ""),
    ("optimizer.weight_decy=0.9", "a key of the config", "optimizer.weight_decay"),
    ("trainer.max_epochs=ten", "a whole number", ""),
    ("trainer.max_epoch=3", "a key of the config", "trainer.max_epochs"),
    ("trainer.accelerator=gpuu", "one of", "gpu"),
    ("trainer.precision=bf15-mixed", "one of", "bf16-mixed"),
    ("model.hidden=[0]", "at least 1", ""),
    ("model.hidden=64", "a list", ""),
    ("model.dropout=1.5", "a number from 0", ""),
    ("data.batch_size=0", "at least 1", ""),
    ("data.batch_size=1.5", "a whole number", ""),
    ("data.val_fraction=2", "between 0 and 1", ""),
    ("seed=-1", "a whole number", ""),
    ("seed=${foo}", "a value that exists", ""),
    ("mode=minimum", "one of", "min"),
    ("monitor=val/acccc", "one of", "val/acc"),
    ("lr=0.1", "a key of the config", "optimizer.lr"),
    ("experiment=tutorail", "one of", "tutorial"),
    ("metrics=[accuracy,aurc]", "one of", ""),
    ("loss=[mae,mse]", "one of", ""),
    ("loss=mae,mse", "-m for a run of each", ""),
    ("optimizer.lr=0.1,0.2", "-m for a run of each", ""),
    ("optimizer.lr=1e39", "a number of at most 3.4e+38", ""),
    ("loss.weight=balancd", "a list of numbers, or balanced", ""),
    ("optimizer._partial_=false", "true", ""),
    ("trainer.num_nodes=3", "MASTER_ADDR", ""),
    ("trainer.devices=99", "processes", ""),
    ("trainer.accumulate_grad_batches=0", "at least 1", ""),
    ("name=../x", "a name that leads nowhere else", ""),
    ("seed=${seed", "a reference with both its braces", ""),
    ("data.target=1", "a key of the config", ""),
    ("loss._target_=torch.nn.L2Loss", "can be imported", "torch.nn.L1Loss"),
    ("loss.reduction=none", "mean or sum", ""),
    ("optimizer.lr=-1", "Invalid learning rate", ""),
    ("scheduler=", "one of", ""),
    ("threads=100000000", "from 1 to", ""),
    ("loss.label_smoothing=2", "between 0.0 and 1.0", ""),
    ("trainer.check_val_every_n_epoch=0", "at least 1", ""),
    ("trainer.max_epochs=-5", "at least -1", ""),
    ("trainer.max_steps=-2", "at least -1", ""),
    ("metrics.acc=null", "a key of the config", "metrics.classification.acc"),
    ("logger=null", "one of", "none"),
    ("callbacks=off", "one of", "none"),
    ("callbacks.progress=null", "or ~callbacks.progress, which leaves it out", ""),
    ("callbacks.progress=off", "or ~callbacks.progress, which leaves it out", ""),
    ("logger.tensorboard=null", "or ~logger.tensorboard, which leaves it out", ""),
    ("metrics.classification.acc=null", "or ~metrics.classification.acc, which leaves it out", ""),
    ("metrics.classification=null", "or ~metrics.classification, which leaves it out", ""),
]


def assert_one_line(finished: Finished, *parts: str) -> None:
    """Exit code 2, one line on stderr with these parts, nothing else, and no folder left."""
    assert finished.code == 2, finished
    assert finished.err.count("\n") == 1, finished
    assert all(part in finished.err for part in parts), finished
    assert "Traceback" not in finished.err + finished.out
    assert [p.name for p in finished.folder.iterdir() if p.name[0] != "."] == []


@pytest.mark.parametrize(("word", "expected", "near"), TYPOS)
def test_a_typo_is_one_line_that_names_it(run: Run, word: str, expected: str, near: str) -> None:
    shown = "metrics=aurc" if "aurc" in word else word.replace("1e39", "1e+39")  # as it was understood
    assert_one_line(run(word), f"{shown}: expected", expected, f"nearest: {near}" if near else "")


def test_a_number_that_would_fail_after_some_steps_is_one_line_before_them(run: Run) -> None:
    assert_one_line(
        run("optimizer=lbfgs", "optimizer.history_size=0"), "optimizer.history_size=0", "at least 1"
    )
    assert_one_line(run("scheduler=polynomial", "scheduler.power=-1"), "scheduler.power=-1", "at least 0")


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none_is_one_line_that_names_what_there_is(run: Run) -> None:
    assert_one_line(run("trainer.accelerator=gpu"), "trainer.accelerator=gpu", "what this machine has: cpu")


def test_a_loss_on_classes_for_real_valued_targets_is_one_line(run: Run) -> None:
    assert_one_line(run("data=diabetes", "loss=cross_entropy"), "loss=", "a loss on values (mae, mse")


def test_every_metric_that_is_looked_at_is_one_that_is_logged(run: Run) -> None:
    wrong = run("scheduler=plateau", "scheduler.monitor=val/los")
    assert_one_line(wrong, "scheduler.monitor=val/los", "nearest: val/loss")


def test_an_optimizer_that_can_not_serve_the_model_is_one_line(run: Run) -> None:
    assert_one_line(run("optimizer=sparse_adam"), "optimizer=sparse_adam", "dense gradients")


def test_a_schedule_for_a_run_without_end_is_one_line(run: Run) -> None:
    assert_one_line(run("scheduler=cosine", "trainer.max_epochs=-1"), "T_max", "no end")


def test_a_part_is_left_out_as_its_line_says(run: Run) -> None:
    words = ("~callbacks.progress", "~logger.tensorboard", "~metrics.classification")
    finished = run(*words, "trainer.fast_dev_run=1")
    assert finished.code == 0, finished.err
    assert "Epoch 1" not in finished.out


def test_what_leads_to_no_choice_is_like_none_of_them(run: Run) -> None:
    assert "nearest" not in run("loss=null").err


def test_the_traceback_is_there_for_who_asks(run: Run) -> None:
    finished = run("model.hidden=[0]", HYDRA_FULL_ERROR="1")
    assert finished.code == 1
    assert "Traceback" in finished.err
    assert "hidden=[0]" in finished.err


def test_a_bug_in_code_of_ones_own_keeps_its_traceback(run: Run) -> None:
    finished = run("model._target_=augmented.broken")
    assert finished.code == 1
    assert "NameError: name 'forgotten' is not defined" in finished.err
    assert "augmented.py" in finished.err


def test_help_lists_every_choice_with_a_line_on_it(run: Run) -> None:
    finished = run("--help")
    assert finished.code == 0
    lines = [line.split(maxsplit=1) for line in finished.out.splitlines()]
    for group in (folder.name for folder in CONF.iterdir() if folder.is_dir()):
        assert any(line[:1] == [group] for line in lines), group
        for word in list_choices(group):
            assert any(line[0] == word and len(line) == 2 for line in lines if line), (group, word)


def test_cfg_job_prints_the_run_without_running_it(run: Run) -> None:
    finished = run("--cfg", "job", "loss=mae", "optimizer.lr=0.5")
    assert finished.code == 0
    assert "_target_: descent.losses.MeanAbsoluteError" in finished.out
    assert "lr: 0.5" in finished.out
    assert not (finished.folder / "run").exists()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("scheduler.scheduler._target_=torch.nn.Softmax", "a torch.optim.lr_scheduler.LRScheduler"),
        ("logger.tensorboard._target_=lightning.pytorch.Trainer", "a lightning.pytorch.loggers.Logger"),
        ("callbacks.progress._target_=builtins.print", "a lightning.pytorch.Callback"),
        ("+metrics.x={_target_: torch.nn.L1Loss}", "a torchmetrics.Metric"),
        ("model._target_=torch.nn.Module", "a torch.nn.Module, or a function that returns one"),
        ("loss._target_=torch.pi", "not a value of type float"),
        ("optimizer._target_=torch.optim", "not a module"),
        ("data.source._target_=torch.nn.Linear", "a function that returns Samples"),
        ("trainer._target_=1", "a class or function with its module"),
    ],
)
def test_a_target_of_another_kind_is_one_line(run: Run, word: str, expected: str) -> None:
    assert_one_line(run(word, "scheduler=step"), f"{word.partition('=')[0].lstrip('+')}", expected)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("+foo=1", "foo=1: expected a key of the config"),
        ("++opitmizer.foreach=1", "opitmizer.foreach=1: expected a key of the config; nearest: optimizer"),
        ("+optimizer.foo=1", "optimizer.foo=1: expected an argument of torch.optim.Adam"),
        (
            "++loss.wieght=1",
            "loss.wieght=1: expected an argument of descent.losses.by_task; nearest: weight",
        ),
        ("+data.nan_at=3", "data.nan_at=3: expected an argument of descent.data.samples.FromSamples"),
        ("+checkpoint.evry=1", "checkpoint.evry=1: expected a key of the config"),
        ("+loss=mae", "+loss=mae: expected loss=, and one of"),
        ("+seed=1", "+seed=1: expected seed=…, for the config has it"),
        ("+trainer.logger=false", "trainer.logger=false: expected no word for it"),
        ("+model.outputs=3", "model.outputs=3: expected no word for it"),
        ("+data.like={}", "data.like={}: expected no word for it"),
        ("+optimizer.params=null", "optimizer.params=null: expected no word for it"),
        ("+logger.tensorboard.x=1", "logger.tensorboard.x=1: expected values that it takes"),
        ("logger.tensorboard.save_dir=/proc/x", "logger.tensorboard.save_dir=/proc/x: expected values that"),
        ("+callbacks.x._target_=lightning.pytorch.callbacks.BackboneFinetuning", "module has no backbone"),
        (
            "+callbacks.x={_target_: lightning.pytorch.callbacks.ModelPruning, pruning_fn: l1_unstructured}",
            "expected other ones than ModelPruning",
        ),
        (
            "trainer.profiler={_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: /proc/x}",
            "SimpleProfiler, dirpath: /proc/x}: expected values that it takes",
        ),
        (
            "+callbacks.x._target_=lightning.pytorch.callbacks.TQDMProgressBar",
            "trainer.enable_progress_bar=false: expected true",
        ),
        (
            "callbacks.best_weights.filename='{a'",
            "callbacks.best_weights.filename='{a': expected values",
        ),
        (
            "callbacks.best_weights.filename='{epoch:z}'",
            "callbacks.best_weights.filename='{epoch:z}': expected",
        ),
        (
            "trainer.val_check_interval=99",
            "val_check_interval=99: expected at most 90, the batches of an epoch",
        ),
        ("callbacks.best_weights.filename=a/b", "filename=a/b: expected a name without a folder"),
        ("trainer.strategy=ddp_spawn", "trainer.strategy=ddp_spawn: expected ddp, for"),
        ("~loss", "loss=null: expected one of"),
        ("~threads", "~threads: expected a config that has threads"),
        ("@=1", "@=1: expected key=value"),
        ("hydra=null", "hydra=null: expected"),
        ("hydra.run.dir=/proc/x", "hydra.run.dir=/proc/x: expected values that Hydra takes"),
    ],
)
def test_a_key_that_nothing_reads_is_one_line_with_any_sign_before_it(run: Run, word: str, told: str) -> None:
    assert_one_line(run(word), told)


def test_a_part_of_ones_own_and_an_argument_that_its_target_takes_are_added_with_a_plus(run: Run) -> None:
    stop = "+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss}"
    assert run(stop, "+logger.tensorboard.purge_step=1", "trainer.fast_dev_run=1").code == 0


# ---- words, before Hydra sees them -------------------------------------------------------------------------


def test_the_flags_are_those_that_hydra_has() -> None:
    actions = [action for action in get_args_parser()._actions if action.option_strings]
    assert {flag: action.choices for action in actions for flag in action.option_strings} == {
        flag: list(settings["choices"]) if "choices" in settings else None
        for flags, settings in FLAGS.items()
        for flag in flags
    }


def test_flags_stand_anywhere_among_the_words() -> None:
    for words in (
        ["-m", "loss=mae", "seed=0,1"],
        ["loss=mae", "-m", "seed=0,1"],
        ["loss=mae", "seed=0,1", "--multi"],
    ):
        line = split(words)
        assert line.words == ["loss=mae", "seed=0,1"]
        assert line.arguments(line.words) == ["--multirun", "loss=mae", "seed=0,1"]
    assert split(["a=1", "--cfg", "job", "b=2", "-p=x"]).arguments([]) == ["--cfg", "job", "--package", "x"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cfg"], "--cfg/-c: expected one of job, hydra, all"),
        (["--info", "nope"], "--info/-i: expected one of all, config"),
        (["--resolve"], "--resolve: expected --cfg beside it"),
        (["-callbacks.checkpoint=null"], "-callbacks.checkpoint=null: expected key=value, or one of --help"),
        (["--multirunn"], "; nearest: --multirun"),
        (["-m", "--cfg", "job"], "--cfg --multirun: expected one of"),
        (["--con=x"], "expected flags that Hydra knows (ambiguous option"),
        (["--package"], "--package/-p: expected a value"),
        (["-sc"], "--shell-completion: expected install=bash"),
        (["--experimental-rerun=x"], "--experimental-rerun: expected resume="),
    ],
)
def test_a_wrong_flag_is_one_line(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split(words)
    assert told in caught.value.line({})


TEXTS = ["한글.csv", "x,1.csv", "a=b.csv", "a(b.csv", "it's.csv", "50%.csv", "~/x.csv", "best-{epoch}",
         "{epoch}", "a#b", "[x", "a\\'", "range(1,2)", "a;b!"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_any_characters_reaches_the_config_as_it_is(text: str) -> None:
    (word,) = quote_values(split([f"data.path={text}"]))
    override = OverridesParser.create().parse_override(word)
    assert (override.key_or_group, override.value()) == ("data.path", text)
    literal = OverridesParser.create().parse_override(f"x={quote_literally(text)}")
    assert literal.value() == text


@pytest.mark.parametrize("texts", [["나이", "id"], ["size (cm)", "5%", "x y"], ["a=b"]])
def test_a_list_of_texts_of_any_characters_is_a_list(texts: list[str]) -> None:
    for flags in ([], ["-m"]):
        (word,) = quote_values(split([*flags, f"data.columns=[{','.join(texts)}]"]))
        assert OverridesParser.create().parse_override(word).value() == texts


def test_a_sweep_is_no_text_and_a_group_no_sweep_without_its_flag() -> None:
    assert quote_values(split(["-m", "loss=mae,mse", "seed=0,1"])) == ["loss=mae,mse", "seed=0,1"]
    with pytest.raises(ConfigError, match="each value in quotes, or all"):
        quote_values(split(["-m", "data.path=한글,b"]))
    with pytest.raises(ConfigError, match="-m for a run of each"):
        quote_values(split(["loss=mae,mse"]))


def test_a_value_that_is_no_text_is_told_with_the_quotes_that_make_it_one(run: Run) -> None:
    assert_one_line(run("data=table", "data.path=[a]"), """expected text, or null: "data.path='[a]'\"""")


# ---- signatures --------------------------------------------------------------------------------------------


def test_arguments_are_passed_on_to_the_class_above_or_to_the_part_that_is_completed() -> None:
    class Above:
        def __init__(self, size: int, *, depth: float = 0.5) -> None: ...

    class Below(Above):
        def __init__(self, loop: str, **arguments: object) -> None: ...

    def part(optimizer: object, T_max: int, **more: object) -> None: ...

    signature = read_signature(Below, None)
    assert (signature.names, signature.open_ended) == ({"loop", "size", "depth"}, False)
    assert signature.hints == {"loop": str, "size": int, "depth": float}
    passed = read_signature(Below, part)
    assert (passed.names, passed.open_ended) == ({"loop", "optimizer", "T_max"}, True)
    assert accepts(None, passed.hints["T_max"])  # what completes it can fill it in


def test_a_tensor_is_a_list_of_numbers_or_balanced_where_a_number_will_not_do() -> None:
    weight, rate = read_signature(torch.nn.CrossEntropyLoss, None).hints["weight"], float | torch.Tensor
    assert all(accepts(value, weight) for value in ([1, 2.5], "balanced", None))
    assert not any(accepts(value, weight) for value in (["a"], "balancd", 1))
    assert expectation(weight) == "a list of numbers, or balanced, or null"
    assert accepts(0.1, rate)
    assert not accepts("balanced", rate)


# ---- resuming ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one batch."""
    words = ["loss=mae", "trainer.max_epochs=1", "trainer.limit_train_batches=1"]
    return make_run(tmp_path_factory, *words).folder / "run"


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def test_what_a_resume_changes_is_kept_with_the_run(run: Run, made: Path) -> None:
    assert run(f"resume={made}", "trainer.max_epochs=2", "on_nan=skip", "-m", f"folder={made}").code in (0, 2)
    assert run(f"resume={made}", "trainer.max_epochs=3", "on_nan=skip", f"folder={made}").code == 0
    words = yaml.safe_load((made / "overrides.yaml").read_text())
    assert [word for word in words if word.startswith("trainer.max_epochs")] == ["trainer.max_epochs=3"]
    assert yaml.safe_load((made / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    assert run(f"resume={made}", f"folder={made}").code == 0  # nothing differs from what is kept


@pytest.mark.parametrize(
    "word",
    [
        "++hydra.run.dir=/tmp/x",
        "~hydra",
        "experiment=../../x/evil",
        "loss=/mae",
        "/loss=mae",
        "loss@x=mae",
        "--cfg=job",
        "nope=1",
        "loss._target_=os.system",
        "+callbacks.x={_target_: lightning.pytorch.cli.instantiate_class}",
        "+logger.x={_target_: lightning.pytorch.loggers.CSVLogger, save_dir: /tmp/x}",
        "+logger.x={_target_: lightning.pytorch.loggers.CSVLogger, _args_: [/tmp/x]}",
        "+trainer.plugins=[{_target_: torch.nn.Identity, dirpath: /tmp/x}]",
        "+logger.tensorboard.comment=${oc.env:HOME}",
        "+logger.tensorboard.comment=$\\{oc.env\\:HOME\\}",
        "+logger.tensorboard.comment=${run_folder:${oc.env:HOME}}",
        "+logger.tensorboard.comment=${hydra:runtime.cwd}",
        "callbacks.checkpoint.folder=/tmp/x",
        "callbacks.best_weights.filename=../../x",
        "seed=1",
        "model.hidden=[" * 50,
        "seed={'a':",
        "loss=mae,mse",
        f"seed={'9' * 5000}",
        f"freeze={'[' * 3000}{']' * 3000}",
    ],
)
def test_a_folder_whose_words_are_not_those_of_its_run_is_refused_in_one_line(
    run: Run, made: Path, word: str
) -> None:
    words = yaml.safe_load((made / "overrides.yaml").read_text())
    (made / "overrides.yaml").write_text(yaml.safe_dump([*words, word]))
    before = sorted(path.name for path in made.rglob("*"))
    finished = run(f"resume={made}", "trainer.max_epochs=2", f"folder={made}")
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished
    assert sorted(path.name for path in made.rglob("*")) == before


def test_nothing_of_the_environment_goes_into_a_folder_that_was_handed_over(run: Run, made: Path) -> None:
    config = (made / "config.yaml").read_text()
    (made / "config.yaml").write_text(re.sub("\nname: .*", r"\nname: \\${oc.env:TOKEN}", config))
    assert run(f"resume={made}", "trainer.max_epochs=2", f"folder={made}", TOKEN="of mine").code == 0
    assert yaml.safe_load((made / "config.yaml").read_text())["name"] == "\\${oc.env:TOKEN}"
    word = "+logger.tensorboard.comment=${oc.env:TOKEN}"  # a person's own word
    for epochs in (3, 4):
        longer = f"trainer.max_epochs={epochs}"
        assert run(f"resume={made}", word, longer, f"folder={made}", TOKEN="of mine").code == 0
    refused = run(f"resume={made}", f"folder={made}", TOKEN="of mine")
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused
    assert "expected words that read nothing of this machine, or this one typed again" in refused.err


@pytest.mark.parametrize("text", ["${seed}", "\\${seed}", "a\\\\${seed}\\", "$${seed}'", "\\\\\\${"])
def test_a_text_stays_as_it_is_whatever_is_in_it(text: str) -> None:
    config = OmegaConf.create({"seed": 3, "name": "", "other": ""})
    set_text(config, "name", text)
    config.other = parse(f"name={quote_literally(text)}").value()
    assert [config.name, config.other] == [text, text]


def test_a_run_of_a_recipes_sweep_is_resumed_alone(run: Run, tmp_path: Path) -> None:
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "jobs=1"]
    assert run("experiment=mae_vs_cross_entropy", *short, f"folder={tmp_path}/all").code == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    finished = run(f"resume='{tmp_path}/all/loss=mae'", "trainer.max_epochs=2", "folder=.")
    assert finished.code == 0, finished.err
    assert "Epoch 2/2" in finished.out
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_saved_word_of_a_group_is_not_put_together_from_references() -> None:
    assert is_word("experiment=tutorial", ["experiment"], ["experiment"])
    for word in ("experiment=.${oc.env:NOTHING,''}.${oc.env:HOME}", "experiment=${oc.env:HOME}"):
        assert not is_word(word, ["experiment"], ["experiment"])


def test_a_folder_of_any_name_is_resumed(run: Run, tmp_path: Path) -> None:
    name = f"{tmp_path}/a $1 'c'\\"
    first = run(f"folder={name}", "trainer.max_epochs=1", "trainer.limit_train_batches=1")
    assert first.code == 0, first.err
    assert (Path(name) / "result.json").exists()
    again = run(f"resume={name}", "trainer.max_epochs=2", "folder=.")
    assert "Resumes" in again.out, again
    assert list(Path(name).glob("events.*"))
    for variable in ("HOME", "A_NAME_THAT_IS_NOT_SET"):  # TensorBoard's logger would write elsewhere
        refused = run(f"folder={tmp_path}/a ${variable} b")
        assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err


def test_no_run_and_the_latest_run_are_told_by_name(run: Run) -> None:
    assert_one_line(run("run=null", command="evaluate"), "run=null: expected the folder of a run, logs/…")


@pytest.mark.parametrize("word", ["--help", "--cfg=job"])
def test_help_and_cfg_import_nothing_heavy(word: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", TRAIN, *word.split("=")],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "descent.cli.command" in imported
    assert not imported & {"torch", "lightning", "numpy", "torchmetrics", "sklearn"}


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "export", "compare"])
def test_a_command_imports_next_to_nothing_before_it_catches_signals(command: str) -> None:
    def list_imported(names: str) -> set[str]:
        code = f"import {names}; print(*sys.modules)"
        python = [sys.executable, "-S", "-c", code]  # -S: without what a virtual environment imports
        return set(subprocess.check_output(python, cwd=ROOT / "src", text=True).split())

    needed = list_imported("sys, atexit, gc, os")
    ours = {command, "descent", "descent.cli", "descent.cli.command", "descent.cli.quiet_exit"}
    assert list_imported(f"sys, {command}") - needed == ours


def test_any_other_loss_by_its_name_in_torch(run: Run) -> None:
    finished = run("loss._target_=torch.nn.MultiMarginLoss", "trainer.fast_dev_run=2")
    assert finished.code == 0, finished.err
    assert "loss.ignore_index is left out: torch.nn.MultiMarginLoss does not take it" in finished.out


def test_every_trainer_argument_is_overridden_without_plus(run: Run) -> None:
    words = ["accumulate_grad_batches=2", "gradient_clip_val=0.5", "precision=64-true", "max_epochs=1"]
    words += ["limit_train_batches=4", "deterministic=true", "num_sanity_val_steps=0", "val_check_interval=2"]
    finished = run(*(f"trainer.{word}" for word in words))
    assert finished.code == 0, finished.err
    assert "Epoch 1/1, Train Loss: " in finished.out


def test_it_runs_as_a_script_from_any_working_directory(tmp_path: Path) -> None:
    words = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", f"folder={tmp_path}/here"]
    answer = subprocess.run(
        [sys.executable, TRAIN, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "here/result.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "3", "[]", "a: !!bool x", "a: &a [*a]", "a: !!int x", "? [a]: 1", "\0"),
        *(
            "- 1\n" * 200_000,
            "a: " + ":".join(["59"] * 50_000),
            f"a: 0x{'f' * 5000}",
            "[" * 5000,
            "a" * 2_000_000,
        ),
    ],
    ids=lambda text: text[:9].strip(),
)
def test_a_config_that_is_none_is_one_line(run: Run, made: Path, text: str) -> None:
    for name in ("config.yaml", "overrides.yaml"):
        before = (made / name).read_text()
        (made / name).write_text(text)
        finished = run(f"resume={made}", f"folder={made}")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished
        (made / name).write_text(before)


@pytest.mark.parametrize("key", ["name", "folder", "data", "model", "optimizer", "callbacks", "trainer"])
def test_a_config_that_lacks_a_part_is_one_line(run: Run, made: Path, key: str) -> None:
    config = yaml.safe_load((made / "config.yaml").read_text())
    for value in ([1], None):
        (made / "config.yaml").write_text(yaml.safe_dump({**config, key: value}))
        finished = run(f"resume={made}", f"folder={made}")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished
        assert "expected the folder of a run; its config.yaml is not one" in finished.err


def test_a_name_that_is_too_long_is_one_line(run: Run) -> None:
    for word in ("run", "input"):
        finished = run(f"{word}={'x' * 300}", "run=run" if word == "input" else "", command="evaluate")
        assert finished.code == 2
        assert finished.err.count("\n") == 1


def test_a_sweep_s_name_leads_nowhere_else(run: Run) -> None:
    assert_one_line(run("-m", "seed=0,1", "name=../x"), "name=../x: expected a name that leads nowhere else")


def test_a_sweep_of_a_command_that_has_none_is_one_line(run: Run) -> None:
    for word in ("-m", "hydra.mode=MULTIRUN"):
        assert_one_line(run(word, "run=nowhere", command="evaluate"), "--multirun: expected src/train.py")
