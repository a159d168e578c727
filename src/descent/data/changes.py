"""What has changed between two descriptions of data, in words."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

SHOWN = 3  # changes that a line names
LONGEST = 40  # characters of a value


def compare_descriptions(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what differs, such as `reader.columns[2].name was area and is size`; "" if nothing does.

    Args:
        before: what `DataModule.describe` returned once.
        now: what it returns today.
    """
    changed = [name for name in now if before.get(name) != now[name]]
    told = [name for name in changed if name != "fingerprint"]
    places = find_changes({name: before.get(name) for name in told}, {name: now[name] for name in told}, "")
    found = list(islice(places, SHOWN + 1))
    if len(found) > SHOWN:
        found[SHOWN] = "and more"
    if changed and not found:
        return "samples have other values, or come in another order"
    return ", ".join(found)


def find_changes(before: Any, now: Any, place: str) -> Iterator[str]:
    """Yield what differs between plain values, and where, but for fractions, which follow from samples."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            yield from find_changes(before.get(name), now.get(name), f"{place}.{name}" if place else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from find_changes(*pair, f"{place}[{index}]")
    elif isinstance(before, list) and isinstance(now, list):
        yield f"{place} had {len(before):,} entries and has {len(now):,}"
    elif before != now and not (isinstance(before, float) and isinstance(now, float)):
        yield f"{place} was {str(before)[:LONGEST]} and is {str(now)[:LONGEST]}"
