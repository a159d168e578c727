"""Runs side by side, ranked, with what differs in their configs: `python src/compare.py logs/a logs/b`."""

import sys

from omegaconf import DictConfig

from descent.cli.command import command
from descent.cli.words import gather_paths


def compare(config: DictConfig) -> None:
    from descent.sweep.comparison import compare_runs, write_page

    comparison = compare_runs(list(config.runs), config.by)
    print(comparison.text())
    write_page(comparison, config.output)
    print(f"\nWritten to {config.output}")


if __name__ == "__main__":
    sys.argv[1:] = gather_paths(sys.argv[1:], "runs", ("by", "output"))
    command(compare, "compare")
