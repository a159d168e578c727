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

    from descent.errors import require
    from descent.inference import load_for
    from descent.inference.output import count_rows, open_output, write

    require(bool(config.input), "input", config.input, "a file or folder to predict for, such as new.csv")
    suffix = Path(str(config.output)).suffix
    require(suffix in (".csv", ".parquet"), "output", config.output, "a name that ends in .csv or .parquet")
    model, total = load_for(config), count_rows(config.input)
    with open_output(config.output, config.overwrite, config.run, config.input) as stream:
        rows = write(model.predict_blocks(config.input, config.keep), stream, suffix, total)
    print("\n".join([*model.reader.notes(), f"{rows:,} rows in {config.output}"]))


if __name__ == "__main__":
    main(predict, "predict")
