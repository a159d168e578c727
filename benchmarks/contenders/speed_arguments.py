"""What `speed.py` passes to a contender through its environment."""

import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from jobs import JOBS

job = replace(
    JOBS[os.environ["SPEED_JOB"]],
    samples=int(os.environ["SPEED_SAMPLES"]),
    epochs=int(os.environ["SPEED_EPOCHS"]),
)
device = torch.device("cuda" if os.environ["SPEED_ACCELERATOR"] == "gpu" else "cpu")
threads = int(os.environ["SPEED_THREADS"])
folder = os.environ["SPEED_FOLDER"]
