"""Predict with a trained run: `python src/predict.py run=logs/… input=new.csv output=predictions.csv`."""

from omegaconf import DictConfig

from descent.cli.command import command


def predict(config: DictConfig) -> None:
    # imported here, so that --help need not wait for torch
    from tqdm import tqdm

    from descent.errors import require
    from descent.inference import load
    from descent.inference.output import open_output, require_free
    from descent.machine import device, set_threads

    require(bool(config.input), "input", config.input, "a file or folder to predict for, such as new.csv")
    require(config.batch_size >= 1, "batch_size", config.batch_size, "a whole number of at least 1")
    named_csv = str(config.output).endswith(".csv")
    require(named_csv, "output", config.output, "a name that ends in .csv")
    require_free(config.output, config.overwrite, config.input)
    model = load(config.run, config.weights, device(config.device), list(config.allow))
    set_threads("auto", config.batch_size, model.input_shape)

    rows, first = 0, True
    with open_output(config.output) as stream, tqdm(unit=" rows", unit_scale=True, disable=None) as progress:
        for block in model.predict_blocks(config.input, list(config.keep), config.batch_size):
            block.write_csv(stream, include_header=first)
            rows, first = rows + len(block), False
            progress.update(len(block))
    print("\n".join([*model.reader.notes(), f"{rows:,} rows in {config.output}"]))


if __name__ == "__main__":
    command(predict, "predict")
