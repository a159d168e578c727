"""Metrics of a trained run, on its own test split or another file: `python src/evaluate.py run=logs/…`."""

from omegaconf import DictConfig

from command_line import command


def evaluate(config: DictConfig) -> None:
    # imported here, so that --help need not wait for torch
    import json
    from pathlib import Path

    from descent.errors import require
    from descent.evaluation import of_file, own_split, report
    from descent.folder import claimed
    from descent.machine import device, quiet_libraries, set_threads
    from descent.predictor import load

    quiet_libraries()
    require(config.batch_size >= 1, "batch_size", config.batch_size, "a whole number of at least 1")
    allow = list(config.allow)
    model = load(config.run, config.weights, device(config.device), allow)
    set_threads("auto", config.batch_size, model.held["input_shape"])
    if config.input is None:
        title, samples = f"its own {config.split} split", own_split(model, config.split, allow)
    else:
        title, samples = config.input, of_file(model, config.input)
    metrics, text, picture = report(model, samples, config.batch_size, allow)

    text = f"{config.run}, its {config.weights} weights on {title}\n\n{text}" + "".join(
        f"{note}\n" for note in model.reader.notes()
    )
    with claimed(str(Path(config.run) / "evaluation"), resume=False) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (folder / "report.txt").write_text(text, encoding="utf-8")
        (folder / "picture.svg").write_text(picture, encoding="utf-8")
    print(f"{text}\nWritten to {folder}")


if __name__ == "__main__":
    command(evaluate, "evaluate")
