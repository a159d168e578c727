"""Train a model: `python src/train.py loss=mae optimizer=sgd trainer.accelerator=gpu`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from descent.cli.main import main

if TYPE_CHECKING:
    from descent.build import Config
    from descent.run.folder import Run


def train(config: Config, run: Run) -> Any:
    """Train what the config describes, test its best weights, and return the recorder and the trainer."""
    # imported here, so that --help and --cfg do not wait for torch
    from lightning.pytorch import seed_everything

    from descent.build import builder
    from descent.callbacks.best_weights import find_best
    from descent.callbacks.recorder import Recorder
    from descent.data.described import count_batches, describe, find_sizes, find_task
    from descent.errors import blame
    from descent.losses import weigh_classes
    from descent.machine import quiet_libraries, set_threads

    build = builder(config, run.allowed)  # build("model") makes what config.model describes
    quiet_libraries()
    with blame("seed"):
        seed_everything(config.seed, verbose=False)

    origin, started = None, ""
    if config.init_from:  # the run whose weights this one starts from
        from descent.run.saved import read_run

        origin = read_run(config.init_from, "best", key="init_from")
    data = build("data", like=origin and origin.like())  # it determines the sizes of everything below
    task, sizes = find_task(data), find_sizes(data)
    model = build("model", **sizes)
    if config.init_from or config.freeze:
        from descent.run.initial_weights import start_from

        started = start_from(model, origin, data, config.freeze)
    module = build(
        "module",
        model=model,
        criterion=build("loss", task=task, **weigh_classes(config.loss, data)),
        optimizer=build("optimizer"),  # a partial: configure_optimizers passes model.parameters()
        schedule=build("scheduler") or None,
        metrics=build("metrics", task=task, **sizes),
        task=task,
        scaling=getattr(data, "scaling", None),
        data=data,
    )
    set_threads(config.threads, data)

    recorder = Recorder(run, config, *describe(data, module, started, config.name))
    trainer = build(
        "trainer",
        callbacks=[recorder, *build("callbacks").values()],
        logger=list(build("logger").values()),
        default_root_dir=run.folder.path,
        batches=count_batches(data),
    )
    trainer.fit(module, datamodule=data, ckpt_path=run.rewind(), weights_only=True)
    best, _ = find_best(trainer)
    trainer.test(module, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
    recorder.summarise(trainer)
    return recorder, trainer


if __name__ == "__main__":
    main(train, "train")
