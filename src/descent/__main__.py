"""`descent-train loss=mae`, or `python -m descent loss=mae`: src/train.py from an installed wheel."""

import runpy
import sys

from descent.paths import COMMANDS


def main() -> None:
    """Do what `python src/train.py` does."""
    sys.path.insert(0, str(COMMANDS))  # where the user's own modules are
    runpy.run_path(str(COMMANDS / "train.py"), run_name="__main__")


if __name__ == "__main__":
    main()
