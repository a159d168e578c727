"""Runs side by side, ranked: `python src/compare.py logs/a logs/b`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from descent.cli.main import main

if TYPE_CHECKING:
    from descent.build import Config


def compare(config: Config) -> None:
    """Print the runs of some folders side by side, and write table and pictures where `output` says."""
    from descent.sweep.ranking import compare as compare_runs

    print(compare_runs(list(config.runs), config.by, config.output))


if __name__ == "__main__":
    main(compare, "compare")
