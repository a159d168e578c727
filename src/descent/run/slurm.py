"""What a run that SLURM warns of its end asks SLURM for."""

import os
import subprocess


def requeue() -> str:
    """Ask SLURM to run this job again, and return a message about the result."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"SLURM could not requeue job {job} ({error})"
    return f"SLURM runs job {job} again"
