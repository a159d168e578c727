"""`descent-train loss=mae`, or `python -m descent loss=mae`: src/train.py of an installed wheel."""

import runpy
import sys

from descent.paths import find_command


def main() -> None:
    """Do what `python src/train.py` does."""
    sys.path.insert(0, str(find_command("train").parent))  # where modules of one's own are
    runpy.run_path(str(find_command("train")), run_name="__main__")


if __name__ == "__main__":
    main()
