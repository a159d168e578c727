"""Keras 3 on torch: `compile` and `fit` on arrays in memory, with metric and validation."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
from speed_arguments import job

keras.utils.set_random_seed(0)


def network() -> keras.Model:
    """The network of `job.model()`, of Keras's own layers; images have their channels first, as torch's."""
    layers: list = [keras.Input(job.shape)]
    if job.channels:
        for channels in job.channels:
            layers += [
                keras.layers.Conv2D(
                    channels, 3, padding="same", use_bias=False, data_format="channels_first"
                ),
                keras.layers.BatchNormalization(axis=1),
                keras.layers.ReLU(),
                keras.layers.MaxPooling2D(2, data_format="channels_first"),
            ]
        layers.append(keras.layers.GlobalAveragePooling2D(data_format="channels_first"))
    else:
        layers += [keras.layers.Flatten(), keras.layers.Dense(256, activation="relu")]
    return keras.Sequential([*layers, keras.layers.Dense(job.outputs)])


class Stamp(keras.callbacks.Callback):
    """Prints a line for the benchmark when an epoch has ended."""

    def on_epoch_end(self, epoch, logs=None):
        print(f"\nEpoch {epoch + 1}", flush=True)


train_data, val_data = ([part.numpy() for part in split] for split in job.splits())
loss = "mean_absolute_error"
metrics = []
if not job.real_values:
    loss, metrics = keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"]
model = network()
model.compile(optimizer=keras.optimizers.Adam(0.001), loss=loss, metrics=metrics)
model.fit(
    *train_data,
    batch_size=job.batch_size,
    epochs=job.epochs,
    validation_data=val_data,
    callbacks=[Stamp()],
    verbose=0,
)
