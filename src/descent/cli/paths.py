"""Where things are: the project's folders, and the words of the groups in conf/."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CONF, LOGS, DATASETS = ROOT / "conf", ROOT / "logs", ROOT / "datasets"


def list_groups() -> list[str]:
    """Return the groups of conf/: what a person chooses by one word."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def list_choices(group: str) -> list[str]:
    """Return the words of a group, or nothing if there is no such group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml")) if group in list_groups() else []
