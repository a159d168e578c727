"""Train a model: `python src/train.py loss=mae optimizer=sgd trainer.accelerator=gpu`."""

from omegaconf import DictConfig

from checks import ROOT, monitors
from command_line import command, description, hyperparameters


def train(config: DictConfig) -> None:
    # imported here, so that --help and --cfg need not wait for torch
    from functools import partial

    from hydra.utils import instantiate
    from lightning.pytorch import seed_everything

    from descent.callbacks.record import Record
    from descent.errors import require_one_of
    from descent.folder import claimed, rewound
    from descent.initial import start_from
    from descent.loop import TrainingLoop
    from descent.losses import fit_to_task
    from descent.machine import compile_in_place, quiet_libraries, set_threads
    from descent.metrics import logged_names, task_metrics
    from descent.module import Supervised

    build = partial(instantiate, _convert_="all")  # below this line: objects and plain values, no config
    quiet_libraries()
    seed_everything(config.seed, verbose=False)

    data = build(config.data)
    model = build(config.model, input_shape=data.input_shape, outputs=data.outputs)
    started = start_from(model, config.init_from, list(config.freeze))
    criterion = fit_to_task(build(config.loss), data.task)
    optimizer = build(config.optimizer)  # a partial: configure_optimizers hands it model.parameters()
    schedule = build(config.scheduler) or None
    metrics = task_metrics(data.task, data.outputs)
    for key, monitor in monitors(config).items():
        require_one_of(logged_names(metrics), key, monitor)
    module = Supervised(model, criterion, optimizer, schedule, metrics, **data.statistics)
    set_threads(config.threads, data.batch_size, data.input_shape)

    with claimed(config.folder, resume=bool(config.resume)) as folder:
        config.folder = str(folder)
        checkpoint = rewound(folder) if config.resume else None
        size = f"{sum(p.numel() for p in model.parameters()):,} parameters"
        title = f"{data.preview}{started}{config.name}: {size}, {data}"
        files = description(config) | {"data.txt": data.preview or f"{data}\n"}
        record = Record(folder, title, files, hyperparameters(config), ROOT, data.input_shape)
        callbacks = [record, *build(config.callbacks).values()]
        trainer = build(config.trainer, callbacks=callbacks, logger=list(build(config.logger).values()))
        if config.loop == "lean":
            trainer.fit_loop.epoch_loop = TrainingLoop(trainer, trainer.min_steps, trainer.max_steps)
        if config.compile:
            compile_in_place(model, trainer.strategy.root_device)

        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        best = getattr(trainer.checkpoint_callback, "best_model_path", None)
        trainer.test(module, datamodule=data, ckpt_path=best or None, verbose=False)
        record.say(record.summary())


if __name__ == "__main__":
    command(train, "train")
