"""Runs side by side, ranked: `python src/compare.py logs/a logs/b`."""

from descent.cli.command import command

TYPE_CHECKING = False  # for type checkers it is true
if TYPE_CHECKING:
    from omegaconf import DictConfig


def compare(config: "DictConfig") -> None:
    from descent.sweep.comparison import compare as compare_runs

    print(compare_runs(list(config.runs), config.by, config.output))


if __name__ == "__main__":
    command(compare, "compare", fields=("runs", "by", "output"))
