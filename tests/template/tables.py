"""Small tables, as several tests need them."""

from pathlib import Path
from random import Random
from typing import Any

import yaml

from descent.data.samples import FromSamples
from descent.table.files import Format
from descent.table.table import table

DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "conf/data/table.yaml").read_text(encoding="utf-8"))


def data_of(path: Path, target: str | list[str], **settings: Any) -> FromSamples:
    """Return the data of a table, with the defaults of conf/data/table.yaml."""
    given = {
        "_target_": None,
        "source": table,
        "format": Format,
        "path": str(path),
        "target": target,
        "seed": 0,
    }
    arguments = {**DEFAULTS, **given, "fold": None, "folds": 5, **settings}
    del arguments["_target_"]
    return FromSamples(**arguments)


def houses(path: Path) -> None:
    """Write 400 prices, which area and town make, with gaps, words and dates."""
    chance, lines = Random(0), ["id,area,town,built,price,rooms,note"]
    for i in range(400):
        area, town = chance.uniform(20, 200), chance.choice(["Rome", "Oslo", "Bern", ""])
        price = "" if i == 5 else round(1000 * area + 50_000 * (town == "Oslo"))
        gap, day = "NA" if i % 10 == 3 else f"{area:.2f}", f"{2000 + i % 20}-0{1 + i % 9}-15"
        lines.append(f'{i},{gap},{town},{day},{price},{area / 30:.3f},"lot {i}, ""sold"""')
    path.write_text("\n".join(lines) + "\n")
