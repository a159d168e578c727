"""Times the template against the loops that a user would write instead: `python benchmarks/speed.py --quick`.

Each repetition is a new process. Contenders take turns, so that a busy minute of the machine falls on
all of them. An epoch's time is what passes between the lines that two epochs print: training, and but
for the limits also validation, metrics, logs and checkpoints. Prints tables, and writes them, a chart,
and every repetition as JSON and as CSV to a folder.
"""

import argparse
import csv
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from math import prod
from pathlib import Path

from jobs import JOBS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TRAIN = str(ROOT / "src/train.py")
LIMIT = "the limit"
CPP = "C++"  # a loop by the same kernels, by hand; for MLPs, on the CPU
CONTENDERS = {  # by name: the file, and the threads of torch (0: its own choice)
    f"{LIMIT}, 1 thread": ("limit", 1),
    f"{LIMIT}, all threads": ("limit", 0),
    "descent": ("descent", 0),
    "descent, trainer=fast": ("fast", 0),
    "the tutorial's loop": ("tutorial_loop", 0),
    "lightning-hydra-template": ("hydra_template", 0),
    "plain Lightning": ("plain_lightning", 0),
    "Keras 3 on torch": ("keras_torch", 0),
    "Hugging Face Trainer": ("hf_trainer", 0),
    CPP: ("cpp_limit", 1),
}
NEEDS = {
    "Keras 3 on torch": "keras",
    "Hugging Face Trainer": "transformers",
    "lightning-hydra-template": "rich",
}


@dataclass
class Run:
    """One process: seconds of each epoch but the first, of the whole command, of the CPU; peak bytes."""

    epochs: list[float]
    first_line: float
    command: float
    cpu: float
    peak: int


def measure(argv: list[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command and time the lines that it prints.

    Raises:
        RuntimeError: it fails.
    """
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **(environment or {})}
        )
        assert process.stdout is not None
        ends, first_line = [], 0.0
        for line in process.stdout:
            now = time.perf_counter()
            first_line = first_line or now - begun
            if re.match(rb"Epoch \d+(/|$)", line):
                ends.append(now)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        if status != 0:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(argv)} failed:\n{errors.read().decode(errors='replace')[-3000:]}")
    epochs = [b - a for a, b in pairwise(ends)]
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return Run(epochs, first_line, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * kilobyte)


def race(key: str, contender: str, samples: int, epochs: int, accelerator: str, words: Iterable[str]) -> Run:
    """One repetition of one contender."""
    file, threads = CONTENDERS[contender]
    job = JOBS[key]
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "SPEED_JOB": key,
            "SPEED_SAMPLES": str(samples),
            "SPEED_EPOCHS": str(epochs),
            "SPEED_ACCELERATOR": accelerator,
            "SPEED_THREADS": str(threads),
            "SPEED_FOLDER": folder,
        }
        if file == "fast":
            words = (*words, "trainer=fast")
        elif file != "descent":
            return measure([sys.executable, str(HERE / f"contenders/{file}.py")], environment)
        sizes = (f"data.batch_size={job.batch_size}", f"trainer.max_epochs={epochs}")
        arguments = (*job.words, *sizes, f"trainer.accelerator={accelerator}", f"folder={folder}/run", *words)
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        return measure([sys.executable, TRAIN, *arguments], {**environment, "PYTHONPATH": path})


def leave_out(accelerator: str) -> None:
    """Drop the contenders that cannot run here, and print why."""
    for name in [n for n, module in NEEDS.items() if n in CONTENDERS and find_spec(module) is None]:
        say(f"Left out: {name}, because {NEEDS[name]} is not installed (uv run --group benchmark …)")
        del CONTENDERS[name]
    if CPP not in CONTENDERS:
        return
    if accelerator != "cpu" or not (shutil.which("c++") and shutil.which("ninja")):
        say(f"Left out: {CPP}, which needs the CPU, a C++ compiler and ninja")
        del CONTENDERS[CPP]
    else:
        race("digits-64", CPP, 1437, 1, accelerator, [])  # compiles it


def shown() -> list[str]:
    """The contenders that are compared with the limit."""
    return [name for name in CONTENDERS if not name.startswith(LIMIT) and name != CPP]


def speeds(keys: list[str], repeats: int, shrink: int, accelerator: str, words: list[str]) -> dict:
    """Every job by every contender, in turns; `runs[job][contender]` is a list of `Run`s."""
    runs: dict[str, dict[str, list[Run]]] = {
        key: {name: [] for name in CONTENDERS if name != CPP or not JOBS[key].channels} for key in keys
    }
    for repeat in range(repeats):
        for key in keys:
            job = JOBS[key]
            small = job.shape == (1, 8, 8)
            samples = job.samples if small else job.samples // shrink
            for name in [*runs[key]] * (3 if small else 1):  # milliseconds need more repetitions
                run = race(key, name, samples, job.epochs, accelerator, words)
                runs[key][name].append(run)
                epoch = statistics.median(run.epochs)
                say(f"{repeat + 1}/{repeats} {key:<11} {name:<25} {epoch:8.4f} s/epoch {run.command:7.2f} s")
    return runs


def limit_of(runs: Mapping[str, list[Run]]) -> str:
    """The faster of the limits: on small jobs one thread beats several."""
    return min((n for n in runs if n.startswith(LIMIT)), key=lambda n: middle(r.epochs for r in runs[n])[0])


def middle(values: Iterable[list[float]]) -> tuple[float, float, float]:
    """Median, least and largest of the medians of some lists."""
    medians = [statistics.median(value) for value in values]
    return statistics.median(medians), min(medians), max(medians)


def ratio(runs: Mapping[str, list[Run]], name: str) -> tuple[float, float, float]:
    """Seconds per epoch over the limit's of the same repetition: median, least and largest."""
    pairs = zip(runs[name], runs[limit_of(runs)], strict=True)
    return middle([statistics.median(run.epochs) / statistics.median(bare.epochs)] for run, bare in pairs)


def ratio_table(runs: Mapping[str, Mapping[str, list[Run]]], titles: Mapping[str, str]) -> str:
    bare = [CPP] if CPP in CONTENDERS else []
    rows = [["Seconds per epoch, as multiples of the limit", "the limit", *bare, *shown()]]
    for key, of in runs.items():
        limit = of[limit_of(of)]
        cells = [titles[key], f"{middle(r.epochs for r in limit)[0]:.3g} s"]
        for name in (*bare, *shown()):
            cells.append("{:.2f} ({:.2f}–{:.2f})".format(*ratio(of, name)) if name in of else "–")
        rows.append(cells)
    return markdown(rows)


def command_table(runs: Mapping[str, Mapping[str, list[Run]]], titles: Mapping[str, str]) -> str:
    rows = [["Seconds from command to result", *shown()]]
    for key, of in runs.items():
        rows.append([titles[key], *(f"{middle([r.command] for r in of[n])[0]:.1f}" for n in shown())])
    return markdown(rows)


def memory(runs: Mapping[str, Mapping[str, list[Run]]], shrink: int, accelerator: str) -> dict:
    """Peak memory beyond that of a run on 2,000 samples, over the size of training and validation data."""
    table: dict[str, dict[str, float]] = {}
    for key, of in runs.items():
        job = JOBS[key]
        size = data_size(key, shrink)
        if size < 10e6:
            continue
        table[key] = {}
        for name in shown():
            # the template also keeps a test split, an eighth of the training data
            held = size * 10 / 9 if name.startswith("descent") else size
            base = race(key, name, 2_000, min(job.epochs, 3), accelerator, []).peak
            table[key][name] = (middle([run.peak] for run in of[name])[0] - base) / held
    return table


def data_size(key: str, shrink: int) -> float:
    """Bytes of a job's training and validation inputs."""
    return JOBS[key].samples / shrink * 9 / 8 * prod(JOBS[key].shape) * 4


def memory_table(peaks: Mapping[str, Mapping[str, float]], titles: Mapping[str, str], shrink: int) -> str:
    rows = [["Peak memory beyond that on 2,000 samples, over the data's own size", "data", *shown()]]
    for key, of in peaks.items():
        rows.append(
            [titles[key], f"{data_size(key, shrink) / 1e6:.0f} MB", *(f"{of[n]:.2f}" for n in shown())]
        )
    return markdown(rows)


def start_up(repeats: int) -> dict:
    """Seconds of the bare imports, of `train.py` until its first step, and of `--help`."""
    imports = "import torch, lightning.pytorch, torch.utils.tensorboard; print(flush=True)"
    times: dict[str, list[float]] = {"bare imports": [], "train.py to its first step": [], "--help": []}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            one_epoch = [TRAIN, "trainer.max_epochs=1", f"folder={folder}/{repeat}"]
            times["bare imports"].append(measure([sys.executable, "-c", imports]).first_line)
            times["train.py to its first step"].append(measure([sys.executable, *one_epoch]).first_line)
            times["--help"].append(measure([sys.executable, TRAIN, "--help"]).command)
        one_epoch = [TRAIN, "trainer.max_epochs=1", f"folder={folder}/profile"]
        profile = subprocess.run(
            [sys.executable, "-X", "importtime", *one_epoch], check=True, capture_output=True, text=True
        )
    packages: dict[str, float] = {}
    for self_time, module in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", profile.stderr):
        package = module.partition(".")[0]
        packages[package] = packages.get(package, 0) + int(self_time) / 1e6
    slowest = sorted(packages.items(), key=lambda item: -item[1])[:12]
    return {"times": times, "imports": dict(slowest)}


def start_up_table(start: Mapping) -> str:
    bare = statistics.median(start["times"]["bare imports"])
    rows = [["Start-up", "seconds", "of the bare imports"]]
    for name, seconds in start["times"].items():
        median = statistics.median(seconds)
        rows.append([name, f"{median:.2f} ({min(seconds):.2f}–{max(seconds):.2f})", f"{median / bare:.2f}"])
    profile = ", ".join(f"{package} {seconds:.2f}" for package, seconds in start["imports"].items())
    return f"{markdown(rows)}\n\nSeconds of import, of each package's own files: {profile}.\n"


def growth(accelerator: str) -> list[list[str]]:
    """Time per sample of the template on 1, 10 and 100 times the data, and of a larger model."""
    rows = [["Growth", "samples", "parameters", "seconds per epoch", "ns per sample and parameter"]]
    for data, model in ((1, 1), (10, 1), (100, 1), (1, 10), (1, 100)):
        samples, hidden = 10_000 * data, 256 * model
        run = race("rows-256", "descent", samples, 4, accelerator, [f"model.hidden=[{hidden}]"])
        epoch, parameters = statistics.median(run.epochs), 34 * hidden + 1  # 32 weights in, 1 out, 1 bias
        each = epoch / samples / parameters * 1e9
        name = f"data × {data}" if model == 1 else f"model × {model}"
        rows.append([name, f"{samples:,}", f"{parameters:,}", f"{epoch:.3g}", f"{each:.3g}"])
    return rows


def machine(accelerator: str) -> str:
    """Return one line about the machine and the versions."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()).group(1)  # type: ignore[union-attr]
    gpu = ""
    if accelerator == "gpu":
        import torch

        gpu = f", {torch.cuda.get_device_name(0)}"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning"))
    return (
        f"{processor}, {os.cpu_count()} logical cores{gpu}; Python {platform.python_version()}, {libraries}"
    )


def chart(runs: Mapping[str, Mapping[str, list[Run]]], titles: Mapping[str, str], path: Path) -> None:
    """Draw the ratios as bars, one axes per job, on a logarithmic scale; the line is the limit."""
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        len(runs), 1, figsize=(9, 0.6 + 1.9 * len(runs)), sharex=True, squeeze=False, layout="constrained"
    )
    for axes, (key, of) in zip(grid[:, 0], runs.items(), strict=True):
        names = [name for name in (*shown(), CPP) if name in of]
        ratios = [ratio(of, name)[0] for name in names]
        colours = ["tab:blue" if name.startswith("descent") else "tab:gray" for name in names]
        axes.bar_label(axes.barh(names, ratios, color=colours), fmt="%.2f", padding=3)
        axes.axvline(1, color="black", linestyle="--")
        axes.set(title=titles[key], xscale="log")
        axes.invert_yaxis()
        axes.margins(x=0.1)
    grid[-1, 0].set_xlabel("seconds per epoch, as multiples of the limit")
    figure.savefig(path)


def save_csv(runs: Mapping[str, Mapping[str, list[Run]]], path: Path) -> None:
    """Write a row for each process."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            [
                "job",
                "contender",
                "repetition",
                "epoch_seconds",
                "command_seconds",
                "cpu_seconds",
                "peak_bytes",
            ]
        )
        for key, of in runs.items():
            for name, repetitions in of.items():
                for number, run in enumerate(repetitions):
                    epoch = statistics.median(run.epochs)
                    rows.writerow([key, name, number, epoch, run.command, run.cpu, run.peak])


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words", nargs="*", help="for the template: compile=true trainer.precision=bf16-mixed …"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the large data, two repetitions: minutes"
    )
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument(
        "--repeats", type=int, default=None, help="of each job by each contender [5, quick: 2]"
    )
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contenders alone, besides the limit")
    parser.add_argument("--brief", action="store_true", help="epochs alone: no memory, start-up and growth")
    parser.add_argument("--threads", type=int, default=None, help="of torch, for every contender [its own]")
    arguments = parser.parse_args()
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
        arguments.words.append(f"threads={arguments.threads}")
    shrink = 10 if arguments.quick else 1
    repeats = arguments.repeats or (2 if arguments.quick else 5)
    titles = {key: JOBS[key].title for key in arguments.jobs}
    if arguments.quick:
        titles = {k: t if k == "digits-64" else f"{t} (a tenth of the data)" for k, t in titles.items()}

    here = machine(arguments.accelerator)
    for name in [
        name for name in CONTENDERS if arguments.only and not name.startswith((LIMIT, *arguments.only))
    ]:
        del CONTENDERS[name]
    leave_out(arguments.accelerator)
    runs = speeds(arguments.jobs, repeats, shrink, arguments.accelerator, arguments.words)
    peaks = {} if arguments.brief else memory(runs, shrink, arguments.accelerator)
    start = {} if arguments.brief else start_up(repeats)
    grown = [] if arguments.brief else growth(arguments.accelerator)

    settings = f"{here}; {repeats} repetitions, medians (least–largest)" + "".join(
        f", {w}" for w in arguments.words
    )
    tables = [ratio_table(runs, titles), command_table(runs, titles)]
    if not arguments.brief:
        tables += [memory_table(peaks, titles, shrink), start_up_table(start), markdown(grown)]
    text = "\n\n".join([f"Measured on {settings}.", *tables]) + "\n"
    raw = {job: {name: [asdict(run) for run in of] for name, of in by.items()} for job, by in runs.items()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    name = "-".join(
        ["speed", arguments.accelerator, *(re.sub(r"\W+", "_", word) for word in arguments.words)]
    )
    result = {"settings": settings, "runs": raw, "memory": peaks, "start_up": start, "growth": grown}
    (arguments.output / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (arguments.output / f"{name}.md").write_text(text, encoding="utf-8")
    save_csv(runs, arguments.output / f"{name}.csv")
    chart(runs, titles, arguments.output / f"{name}.svg")
    say("\n" + text)
    say(f"Written to {os.path.relpath(arguments.output)}/{name}.md, .json, .csv and .svg")


if __name__ == "__main__":
    main()
