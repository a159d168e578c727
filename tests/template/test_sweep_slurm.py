"""A sweep on a real SLURM: one node, this machine, started for the test where SLURM is installed."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from small import last_weights

pytest.importorskip("submitit")
if not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch"))):
    pytest.skip("SLURM is not installed", allow_module_level=True)

CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=all Nodes=ALL Default=YES
"""
# what a cluster's accounting would answer, which needs a database
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
for job in $(echo "$@" | grep -oE -- "-j [0-9]+" | cut -c4-); do
    scontrol -o show job $job | sed -E "s/JobId=([0-9]+) .*JobState=([A-Z_]+) .*/\\1|\\2|/"
done
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start SLURM on this machine, and return the environment in which a command finds it."""
    folder, host = tmp_path / "slurm", socket.gethostname()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    with ExitStack() as sockets:
        servers = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [server.getsockname()[1] for server in servers]
    config: dict[str, Any] = {"host": host, "user": getpass.getuser(), "ports": ports, "folder": folder}
    (folder / "slurm.conf").write_text(CONFIG.format(**config, cpus=os.cpu_count()))
    (folder / "sacct").write_text(SACCT)
    (folder / "sacct").chmod(0o755)
    found = {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{folder}:{os.environ['PATH']}"}
    with (folder / "log").open("w") as log:
        daemons = [
            subprocess.Popen([name, "-D"], env={**os.environ, **found}, stdout=log, stderr=log)
            for name in ("slurmctld", "slurmd")
        ]
        try:
            until = time.monotonic() + 60
            while ask(found, "sinfo", "-h", "-o", "%t").strip() != "idle":
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.2)
            yield found
        finally:
            ask(found, "scancel", "--user", config["user"])
            for daemon in daemons:
                daemon.terminate()
                daemon.wait(30)


def ask(environment: dict[str, str], *command: str) -> str:
    found = {**os.environ, **environment}
    return subprocess.run(command, env=found, capture_output=True, text=True, check=False).stdout


def test_slurm_runs_four_runs_of_which_one_fails(run: Run, tmp_path: Path, slurm: dict[str, str]) -> None:
    words = ["trainer.max_epochs=2", "data.batch_size=64"]
    values = "optimizer.lr=0.001,0.01,0.1,1e30"
    sweep = ["-m", values, *words, "executor=slurm", "executor.jobs=2", "folder=sweep"]
    swept = run(*sweep, timeout=400, **slurm)
    assert swept.code == 1, swept.out + swept.err
    assert swept.out.count("failed: optimizer.lr=1e+30: The loss is nan") == 2  # at once, and at the end
    assert "Traceback" not in swept.out + swept.err
    assert len((tmp_path / "sweep/ranking.csv").read_text().splitlines()) == 1 + 3
    assert run("optimizer.lr=0.01", *words).code == 0
    one, other = last_weights(tmp_path / "run"), last_weights(tmp_path / "sweep/optimizer.lr=0.01")
    assert all(torch.equal(one[name], other[name]) for name in one)
