"""`python -m descent loss=mae`, or `descent-train loss=mae`: the command src/train.py, wherever it is installed."""

import runpy

from descent.paths import find_command


def main() -> None:
    """Do what `python src/train.py` does."""
    runpy.run_path(str(find_command("train")), run_name="__main__")


if __name__ == "__main__":
    main()
