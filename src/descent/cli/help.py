"""What `--help` prints."""

from omegaconf import OmegaConf

from descent.cli.paths import CONF


def print_help(name: str) -> None:
    """Print what Hydra would print, without its list of each group's files, which takes a while."""
    print(OmegaConf.load(CONF / f"{name}.yaml").hydra.help.template)
