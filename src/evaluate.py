"""Evaluates a trained run on its own test split or on another file: `python src/evaluate.py run=logs/…`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from descent.cli.main import main

if TYPE_CHECKING:
    from descent.build import Config


def evaluate(config: Config) -> None:
    """Test a run's weights as the run itself did, print a report, and write it to the run's folder."""
    # imported here, so that --help does not wait for torch
    from descent.inference import evaluation, load_for

    model = load_for(config)
    if config.input is None:
        key, title = "run", f"its own {config.split} split"
        batches = evaluation.read_split(model, config.split)
    else:
        key, title = "input", config.input
        batches = evaluation.read_file(model, config.input)
    print(evaluation.evaluate(model, batches, key, f"{config.run}, its {config.weights} weights on {title}"))


if __name__ == "__main__":
    main(evaluate, "evaluate")
