"""Predict with a trained run: `python src/predict.py run=logs/… input=new.csv output=predictions.csv`."""

from omegaconf import DictConfig

from command_line import command


def predict(config: DictConfig) -> None:
    # imported here, so that --help need not wait for torch
    from tqdm import tqdm

    from descent.errors import ConfigError, require
    from descent.machine import device, set_threads
    from descent.output import free, written
    from descent.predictor import load

    if config.input is None:
        raise ConfigError("input=null: expected a file or folder to predict for, such as input=new.csv")
    require(config.batch_size >= 1, "batch_size", config.batch_size, "a whole number of at least 1")
    file = free(config.output, config.overwrite)
    require(file.suffix == ".csv", "output", config.output, "a name that ends in .csv")
    model = load(config.run, config.weights, device(config.device), list(config.allow))
    set_threads("auto", config.batch_size, model.held["input_shape"])

    rows, source = 0, f"input={config.input}"
    with written(file) as stream, tqdm(unit=" rows", unit_scale=True, disable=None) as progress:
        for block in model.predict_blocks(config.input, list(config.keep), config.batch_size, source):
            block.write_csv(stream, include_header=rows == 0)
            rows += len(block)
            progress.update(len(block))
    print("\n".join([*model.reader.notes(), f"{rows:,} rows in {config.output}"]))


if __name__ == "__main__":
    command(predict, "predict")
