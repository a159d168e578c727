"""Train a model: `python src/train.py loss=mae optimizer=sgd trainer.accelerator=gpu`."""

from descent.cli.command import command, end

TYPE_CHECKING = False  # for type checkers it is true
if TYPE_CHECKING:
    from omegaconf import DictConfig

    from descent.run.folder import Run


def train(config: "DictConfig", run: "Run") -> float | None:
    # imported here, so that --help and --cfg need not wait for torch
    from lightning.pytorch import seed_everything

    from descent.callbacks.recorder import Recorder
    from descent.callbacks.typed_changes import TypedChanges
    from descent.cli.build import builder
    from descent.errors import require_one_of
    from descent.losses import adapt, size_loss
    from descent.machine import quiet_libraries, set_threads
    from descent.metrics import list_logged, size_metrics
    from descent.run.folder import rewind
    from descent.run.initial_weights import Origin, start_from
    from descent.trainer import count_epochs

    build = builder(config)  # build("model", …) is hydra.utils.instantiate(config.model, …)
    quiet_libraries()
    seed_everything(config.seed, verbose=False)

    origin = Origin(config.init_from)
    data = build("data", **origin.for_data())
    model = build("model", input_shape=data.input_shape, outputs=data.outputs)
    started = start_from(model, origin, data.names, list(config.freeze))
    criterion = build("loss", **size_loss(config.loss, data.task, data.class_counts))
    criterion = adapt(criterion, data.task, data.outputs)
    optimizer = build("optimizer")  # a partial: configure_optimizers hands it model.parameters()
    schedule = build("scheduler") or None
    metrics = size_metrics(build("metrics"), data.task, data.outputs)
    for key, monitor in run.monitors.items():
        require_one_of(list_logged(metrics), key, monitor)
    module = build(
        "module", model=model, criterion=criterion, optimizer=optimizer, schedule=schedule,
        metrics=metrics, scaling=data.scaling,
    )  # fmt: skip
    set_threads(config.threads, data.batch_size, data.input_shape)

    checkpoint = rewind(run.folder) if run.resumed else None
    size = f"{sum(p.numel() for p in model.parameters()):,} parameters"
    title = f"{data.shorten_preview()}{started}{config.name}: {size}, {data}"
    recorder = Recorder(run, title, data.preview or f"{data}\n", data.input_shape)
    callbacks = [recorder, TypedChanges(run.changes), *build("callbacks").values()]
    loggers = list(build("logger").values())
    epochs = count_epochs(config.trainer.max_epochs, data.count_batches())
    trainer = build(
        "trainer", callbacks=callbacks, logger=loggers, default_root_dir=run.folder.path, max_epochs=epochs
    )

    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    best = getattr(trainer.checkpoint_callback, "best_model_path", None)
    trainer.test(module, datamodule=data, ckpt_path=best or None, verbose=False)
    recorder.say(recorder.summarise())
    return recorder.best(config.monitor)


if __name__ == "__main__":
    command(train, "train")
    end()
