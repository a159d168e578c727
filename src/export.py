"""A trained run's whole model as one file: `python src/export.py run=logs/… format=onnx`."""

from descent.cli.command import command, end

TYPE_CHECKING = False  # for type checkers it is true
if TYPE_CHECKING:
    from omegaconf import DictConfig


def export(config: "DictConfig") -> None:
    # imported here, so that --help need not wait for torch
    from pathlib import Path

    from descent.errors import require
    from descent.inference import load
    from descent.inference.exporting import FORMATS, TOLERANCE, list_companions
    from descent.inference.output import open_output, require_free

    convert, suffix = FORMATS[config.format]
    output = config.output or str(Path(config.run) / f"model{suffix}")
    require_free(output, config.overwrite, config.run)
    model = load(config.run, config.weights, allow=list(config.allow))
    inputs, beside = model.run.data["inputs"], list_companions(model, Path(output))
    for file, text in beside.items():
        # the export to another format may have written the same text
        if not file.is_file() or file.read_bytes() != text.encode():
            require_free(str(file), config.overwrite, config.run)

    content, difference = convert(model, inputs)
    expected = (
        f"what the run's model gives, to {TOLERANCE:g} of the largest output, but the exported one differs by"
        f" {difference:.2g}; nothing was written"
    )
    require(difference <= TOLERANCE, "format", config.format, expected)
    for file, text in beside.items():
        with open_output(str(file)) as stream:
            stream.write(text.encode())
    with open_output(output) as stream:
        stream.write(content)
    shape = ", ".join(map(str, ("batch", *inputs.shape[1:])))
    print(
        f"{output}: {str(inputs.dtype).removeprefix('torch.')} inputs ({shape}) of any batch size;"
        f" on {len(inputs):,} samples of the run's own data it differs from the original by at most"
        f" {difference:.2g} of the largest output\n{', '.join(map(str, beside))}: what it takes and gives"
    )


if __name__ == "__main__":
    command(export, "export")
    end()
