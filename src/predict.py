"""Predict with a trained run: `python src/predict.py run=logs/… input=new.csv output=predictions.csv`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from descent.cli.main import main

if TYPE_CHECKING:
    from descent.build import Config


def predict(config: Config) -> None:
    """Write one row of predictions per row of the input, block by block, in order."""
    # imported here, so that --help does not wait for torch
    from pathlib import Path

    from tqdm import tqdm

    from descent.errors import require
    from descent.inference import load
    from descent.inference.output import count_rows, open_output, require_free, write
    from descent.machine import choose_device, quiet_libraries, set_threads

    quiet_libraries()
    require(bool(config.input), "input", config.input, "a file or folder to predict for, such as new.csv")
    require(config.batch_size >= 1, "batch_size", config.batch_size, "a whole number of at least 1")
    suffix = Path(str(config.output)).suffix
    require(suffix in (".csv", ".parquet"), "output", config.output, "a name that ends in .csv or .parquet")
    require_free(config.output, config.overwrite, config.run, config.input)
    model = load(config.run, config.weights, choose_device(config.device), config.allow)
    model.batch_size = config.batch_size
    set_threads("auto", model)

    rows, total = 0, count_rows(config.input)
    with open_output(config.output) as stream, tqdm(total=total, unit=" rows", disable=None) as bar:
        for block in write(model.predict_blocks(config.input, config.keep), stream, suffix):
            rows += len(block)
            bar.update(len(block))
    print("\n".join([*model.reader.notes(), f"{rows:,} rows in {config.output}"]))


if __name__ == "__main__":
    main(predict, "predict")
