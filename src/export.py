"""A trained run's whole model as one file: `python src/export.py run=logs/… format=onnx`."""

from omegaconf import DictConfig

from command_line import command


def export(config: DictConfig) -> None:
    # imported here, so that --help need not wait for torch
    from pathlib import Path

    from descent.errors import ConfigError
    from descent.exporting import FORMATS, TOLERANCE, own_inputs
    from descent.output import free, written
    from descent.predictor import load

    convert, suffix = FORMATS[config.format]
    output = config.output or str(Path(config.run) / f"model{suffix}")
    file = free(output, config.overwrite)
    model = load(config.run, config.weights, allow=list(config.allow))
    inputs = own_inputs(model, list(config.allow))

    content, difference = convert(model, inputs)
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"format={config.format}: expected what the run's model gives, to {TOLERANCE:g} of the largest"
            f" output, but the exported one differs by {difference:.2g}; nothing was written"
        )
    with written(file) as stream:
        stream.write(content)
    shape = f"({', '.join(map(str, ('batch', *inputs.shape[1:])))})"
    print(
        f"{output}: {str(inputs.dtype).removeprefix('torch.')} inputs {shape} of any batch size;"
        f" on {len(inputs):,} samples of the run's own data it differs from the original by at most"
        f" {difference:.2g} of the largest output"
    )


if __name__ == "__main__":
    command(export, "export")
