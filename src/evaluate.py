"""Metrics of a trained run on its own test split or on another file: `python src/evaluate.py run=logs/…`."""

from descent.cli.command import command, end

TYPE_CHECKING = False  # for type checkers it is true
if TYPE_CHECKING:
    from omegaconf import DictConfig


def evaluate(config: "DictConfig") -> None:
    # imported here, so that --help need not wait for torch
    from descent.errors import require
    from descent.inference import load
    from descent.inference.evaluation import read_file, read_own_split, report, write_report
    from descent.machine import choose_device, quiet_libraries, set_threads

    quiet_libraries()
    require(config.batch_size >= 1, "batch_size", config.batch_size, "a whole number of at least 1")
    allow = list(config.allow)
    model = load(config.run, config.weights, choose_device(config.device), allow)
    set_threads("auto", config.batch_size, model.input_shape)
    if config.input is None:
        title, samples = f"its own {config.split} split", read_own_split(model, config.split, allow)
    else:
        title, samples = config.input, read_file(model, config.input)
    metrics, text, plot = report(model, samples, config.batch_size, allow)

    notes = "".join(f"{note}\n" for note in model.reader.notes())
    text = f"{config.run}, its {config.weights} weights on {title}\n\n{text}{notes}"
    folder = write_report(config.run, metrics, text, plot)
    print(f"{text}\nWritten to {folder}")


if __name__ == "__main__":
    command(evaluate, "evaluate")
    end()
