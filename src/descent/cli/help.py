"""What `--help` prints."""

from omegaconf import OmegaConf

from descent.cli.paths import CONF


def print_help(name: str) -> None:
    """Print a command's words. Hydra would list each group's files twice to print the same."""
    print(OmegaConf.load(CONF / f"{name}.yaml").hydra.help.template)
