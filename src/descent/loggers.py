"""Loggers for services: Weights & Biases and MLflow continue the curves of a resumed run, Comet does not.

A run that was killed logs the steps after its last checkpoint again, with the same values. TensorBoard's
files are cut back to the checkpoint; what a service has received stays there.
"""

import atexit
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning.pytorch.loggers import CometLogger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from descent.run.atomic import write_text
from descent.run.folder import RunFolder
from descent.run.trust import read_text


class Wandb(WandbLogger):
    """Lightning's `WandbLogger`, whose files are next to the run's folder, because they include links.

    Args:
        save_dir: the run's folder, where it stores the run's Weights & Biases id.
    """

    def __init__(self, save_dir: str, id: str | None = None, **arguments: Any) -> None:
        file = RunFolder(save_dir).tracking
        id = id or (read_text(file) if file.exists() else uuid4().hex[:8])
        super().__init__(save_dir=Path(save_dir).parent, id=id, resume="allow", **arguments)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            write_text(file, id)


class MLflow(MLFlowLogger):
    """Lightning's `MLFlowLogger`, by default with a database next to the run's folder that all runs share.

    Args:
        save_dir: the run's folder.
        tracking_uri: of a server or a database; None is `mlflow.db` next to the folder.
    """

    def __init__(
        self, save_dir: str, experiment_name: str, tracking_uri: str | None = None, **arguments: Any
    ) -> None:
        uri = tracking_uri or f"sqlite:///{Path(save_dir).parent}/mlflow.db"
        if RunFolder(save_dir).checkpoints.exists() and not arguments.get("run_id"):
            arguments["run_id"] = find_mlflow_run(uri, experiment_name, save_dir)
        arguments["tags"] = {**(arguments.get("tags") or {}), "folder": save_dir}
        super().__init__(experiment_name, tracking_uri=uri, save_dir=save_dir, **arguments)

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Log only what is not logged yet, because MLflow does not allow changing a value."""
        known = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({name: value for name, value in params.items() if name not in known})


def find_mlflow_run(uri: str, experiment: str, folder: str) -> str | None:
    """Return the id of the newest run in MLflow that logged this run's folder; None if there is none."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], f'tags.folder = "{folder}"') if found else []
    return runs[0].info.run_id if runs else None


class Comet(CometLogger):
    """Lightning's `CometLogger`, which sends the last points when the process ends."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            atexit.register(self.experiment.end)
