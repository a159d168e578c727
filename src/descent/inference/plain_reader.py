"""Rows of a CSV as the numbers that an exported model takes, with Python's standard library alone.

`export.py` puts this file beside the model, with a JSON file that says what each column is:

    rows = load_rows("new.csv", "model.json")
    session.run(None, {"inputs": numpy.array(rows, numpy.float32)})
"""

import csv
import gzip
import io
import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def load_rows(path: str, description: str) -> list[list[float]]:
    """Return the rows as one number for each column, in the model's order; NaN where one is missing.

    Args:
        path: of a CSV, which may end in .gz.
        description: path of the JSON file beside the model.

    Raises:
        ValueError: a column is missing, or a value is not of its column's kind.
    """
    reader = json.loads(Path(description).read_text(encoding="utf-8"))["reader"]
    rules, columns = reader["format"], reader["columns"]
    text = load_text(path, rules["encoding"])
    bare = re.sub(r'"[^"]*"', "", text[: 1 << 20]).partition("\n")[0]
    best = max(",;\t|", key=bare.count)
    separator = best if best in bare else rules["separator"]
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
    places = [header.index(column["name"]) for column in columns]
    missing = {"", "nan", "NaN", *rules["missing"]}
    return [
        [
            number_of(row[place].strip() if place < len(row) else "", column, missing, number)
            for place, column in zip(places, columns, strict=True)
        ]
        for number, row in enumerate(rows, 1)
    ]


def load_text(path: str, encoding: str) -> str:
    """Return a file's text: decoded as its first bytes say, else as UTF-8, else with the encoding."""
    content = Path(path).read_bytes()
    content = gzip.decompress(content) if path.endswith(".gz") else content
    for mark, marked in MARKS.items():
        if content.startswith(mark):
            return content.decode(marked)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode(encoding)


def number_of(value: str, column: dict[str, Any], missing: set[str], row: int) -> float:
    """Return the number that a column makes of a value; `row`, from 1, is for errors."""
    kind, absent = column["kind"], value in missing
    if kind == "category":
        gap = len(column["words"]) if column["flagged"] else -1
        return float(gap if absent else place_of(value, column["words"]))
    if absent:
        return math.nan
    try:
        if kind == "date":
            return days_of(value, column["dates"])
        if kind == "truth" and value.lower() in ("false", "true"):
            return float(value.lower() == "true")
        return float(plain_number(value, column["decimal"], column["sign"]))
    except ValueError as error:
        raise ValueError(f"row {row}: {value!r} is no {kind} of column {column['name']}") from error


def place_of(value: str, words: list[str]) -> int:
    """Return the place of a word in the list, or -1 for a word that training never saw."""
    value = re.sub(r"^\+?(-?\d+)(?:\.0+|,0)?$", r"\1", value)
    if sorted(word.lower() for word in words) == ["false", "true"]:
        value, words = value.lower(), [word.lower() for word in words]
    return words.index(value) if value in words else -1


def plain_number(value: str, decimal: str, sign: str) -> str:
    """Return a number as Python writes it, without its currency and the marks between thousands."""
    if sign:
        value = re.sub(r"^([+-])\s+", r"\1", value.replace(sign, "", 1).strip())
    groups = r"[,'’\s]" if decimal != "," else r"[.'’\s]"
    if decimal and re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}({groups}\d{{3}})+(\{decimal}\d*)?", value):
        value = re.sub(groups, "", value)
    if decimal == ",":
        value = value.replace(".", "?").replace(",", ".", 1)
    if not NUMBER.fullmatch(value):
        raise ValueError(value)
    return value


def days_of(value: str, form: str) -> float:
    """Return the days from 1970-01-01 to a date, with the time of day as a fraction."""
    value = re.sub(r"\s*Z$", "", value)
    fraction = re.search(r":\d\d(\.\d+)", value)
    seconds = float(fraction[1]) if fraction else 0.0
    if fraction:
        value = value.replace(fraction[1], "", 1)
    if form == "iso":
        value = re.sub(r"\b(\d)\b", r"0\1", value.replace("T", " "))
        date = datetime.fromisoformat(value)
    else:
        form = form.replace("%.f", "")
        if "%B" in form and re.search(r"(?<![^\W\d])[^\W\d]{3}(?![^\W\d])", value):
            form = form.replace("%B", "%b")
        date = datetime.strptime(value, form)
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return (date - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86_400 + seconds / 86_400
