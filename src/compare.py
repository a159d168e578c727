"""Runs side by side, ranked, with what differs in their configs: `python src/compare.py logs/a logs/b`."""

from descent.cli.command import command

TYPE_CHECKING = False  # for type checkers it is true
if TYPE_CHECKING:
    from omegaconf import DictConfig


def compare(config: "DictConfig") -> None:
    from descent.sweep.comparison import compare_runs, write_page

    comparison = compare_runs(list(config.runs), config.by)
    print(comparison.text())
    write_page(comparison, config.output)
    print(f"\nWritten to {config.output}")


if __name__ == "__main__":
    command(compare, "compare", fields=("runs", "by", "output"))
