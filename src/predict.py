"""Predict with a trained run: `python src/predict.py run=logs/… input=new.csv output=predictions.csv`."""

from descent.cli.command import command, end

TYPE_CHECKING = False  # for type checkers it is true
if TYPE_CHECKING:
    from omegaconf import DictConfig


def predict(config: "DictConfig") -> None:
    # imported here, so that --help need not wait for torch
    from pathlib import Path

    from tqdm import tqdm

    from descent.errors import require
    from descent.inference import load
    from descent.inference.output import SUFFIXES, open_output, require_free
    from descent.machine import choose_device, set_threads

    require(bool(config.input), "input", config.input, "a file or folder to predict for, such as new.csv")
    require(config.batch_size >= 1, "batch_size", config.batch_size, "a whole number of at least 1")
    suffix = Path(str(config.output)).suffix
    require(suffix in SUFFIXES, "output", config.output, f"a name that ends in {' or '.join(SUFFIXES)}")
    require_free(config.output, config.overwrite, config.run, config.input)
    model = load(config.run, config.weights, choose_device(config.device), list(config.allow))
    set_threads("auto", config.batch_size, model.input_shape)

    rows = 0
    with open_output(config.output) as stream, tqdm(unit=" rows", unit_scale=True, disable=None) as progress:
        blocks = model.predict_blocks(config.input, list(config.keep), config.batch_size)
        for block in SUFFIXES[suffix](blocks, stream):
            rows += len(block)
            progress.update(len(block))
    print("\n".join([*model.reader.notes(), f"{rows:,} rows in {config.output}"]))


if __name__ == "__main__":
    command(predict, "predict")
    end()
