"""A trained run's whole model as one file: `python src/export.py run=logs/… format=onnx`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from descent.cli.main import main

if TYPE_CHECKING:
    from descent.build import Config


def export(config: Config) -> None:
    """Write the model of a run in another format, once it is known to give the same."""
    # imported here, so that --help need not wait for torch
    from descent.inference import exporting, load

    model = load(config.run, config.weights, allow=config.allow)
    print(exporting.export(model, config.format, config.output, config.overwrite))


if __name__ == "__main__":
    main(export, "export")
