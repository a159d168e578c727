"""Exports a trained run's whole model as one file: `python src/export.py run=logs/… format=onnx`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from descent.cli.main import main

if TYPE_CHECKING:
    from descent.build import Config


def export(config: Config) -> None:
    """Write a run's model in another format, after checking that it gives the same outputs."""
    # imported here, so that --help does not wait for torch
    from descent.inference import exporting, load

    model = load(config.run, config.weights, allow=config.allow)
    print(exporting.export(model, config.format, config.output, config.overwrite))


if __name__ == "__main__":
    main(export, "export")
