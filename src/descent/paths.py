"""The project's folders, and the words of the groups in conf/."""

from pathlib import Path

from descent.errors import ConfigError, first_line

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parents[1]
# an installed wheel contains conf/ and the commands in the package, and its runs go below the current folder
CONF = ROOT / "conf" if (ROOT / "conf/train.yaml").exists() else PACKAGE / "conf"
HOME = ROOT if CONF.parent == ROOT else Path.cwd()
LOGS, DATASETS = HOME / "logs", HOME / "datasets"
COMMANDS = ROOT / "src" if HOME == ROOT else PACKAGE / "commands"


def list_groups() -> list[str]:
    """Return the groups in conf/, each chosen by one word; `local` contains a machine's own settings."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "local")


def list_choices(group: str) -> list[str]:
    """Return the words of a group, or nothing if there is no such group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def read_conf(file: Path) -> str:
    """Return the text of a file of conf/, or of a folder like it."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(str(file), expected=f"text in UTF-8 ({first_line(error)})") from error
