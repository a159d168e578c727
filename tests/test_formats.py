"""One reader: training, evaluation, frames and an exported model's own reader take the same numbers from a
column of a CSV or of Parquet, and those that are meant."""

import csv
import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import product
from math import nan
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from test_table import data_of

from descent.data.named_path import NamedPath
from descent.data.readers import reader_of
from descent.data.samples import FromSamples
from descent.data.table.files import tidy
from descent.data.table.table_reader import TableReader
from descent.errors import ConfigError
from descent.inference.plain_reader import load_rows

ROWS = 60


@dataclass
class Case:
    """A column as a CSV has it, as Parquet has it, and the numbers that both are."""

    texts: list[str]
    values: list[Any]
    numbers: list[float] | None = None
    separator: str = ","
    settings: dict[str, Any] = field(default_factory=dict)

    def expected(self) -> list[float]:
        return [nan if v is None else float(v) for v in self.numbers or self.values]


def days(*dates: date | datetime | None) -> list[float]:
    """Days since 1970-01-01."""
    moments = [d if d is None or isinstance(d, datetime) else datetime(d.year, d.month, d.day) for d in dates]
    return [nan if m is None else m.replace(tzinfo=UTC).timestamp() / 86_400 for m in moments]


D = [date(1998, 6, 12), date(2020, 3, 28), date(2020, 1, 13)]
T = [datetime(1998, 6, 12, 1, 2, 3), datetime(2020, 3, 28, 23, 59, 59), datetime(2020, 1, 13)]
PARSED = days(*D)

COLUMNS = {
    "whole numbers": Case(["1", "-2", "+3", " 40"], [1, -2, 3, 40]),
    "decimals": Case(["0.5", "1e3", ".25", "-1."], [0.5, 1000.0, 0.25, -1.0]),
    "three decimals": Case(["1.234", "2.345", "3.456"], [1.234, 2.345, 3.456], separator="\t"),
    "decimal commas": Case(["1,5", "2,25", "-3"], [1.5, 2.25, -3.0], separator=";"),
    "decimal commas and points between": Case(["1,5", "1.234,5", "999"], [1.5, 1234.5, 999.0], separator=";"),
    "decimal commas that were said": Case(
        ["1,234", "2,345"], [1.234, 2.345], separator=";", settings={"decimal": "comma"}
    ),
    "thousands": Case(["1,234", "12,345,678", "7"], [1234, 12345678, 7]),
    "thousands that were said": Case(
        ["1.234", "2.345"], [1234, 2345], separator=";", settings={"decimal": "comma"}
    ),
    "thousands with decimals": Case(["1,234.5", "7.25"], [1234.5, 7.25], separator=";"),
    "thousands with spaces": Case(["1 234", "12 345,5", "7"], [1234, 12345.5, 7], separator=";"),
    "thousands with apostrophes": Case(["1'234.5", "7"], [1234.5, 7.0]),
    "dollars": Case(["$1,234.50", "-$3.00", "$ 7"], [1234.5, -3.0, 7.0]),
    "euros": Case(["12,50 €", "1.234,00 €", "7 €"], [12.5, 1234.0, 7.0], separator=";"),
    "per cent": Case(["5 %", "12.5%", "7"], [5.0, 12.5, 7.0]),
    "a lost number": Case(
        ["1", "", "NA", "?", "3"], [1, None, None, None, 3], settings={"missing": ["NA", "?"]}
    ),
    "a number for none": Case(["1.5", "-999", "3"], [1.5, None, 3.0], settings={"missing": ["-999"]}),
    "true and false": Case(["true", "false", "true"], [True, False, True]),
    "True and False": Case(["True", "False", ""], [True, False, None]),
    "TRUE and FALSE": Case(["TRUE", "FALSE", "True"], [True, False, True]),
    "ISO dates": Case(["1998-06-12", "2020-03-28", ""], [D[0], D[1], None], days(D[0], D[1], None)),
    "ISO times": Case(["1998-06-12 01:02:03", "2020-03-28T23:59:59Z", "2020-01-13"], T, days(*T)),
    "ISO times from UTC": Case(
        ["1998-06-12 03:02:03+02:00", "2020-03-28T23:59:59Z", "2020-01-13"], T, days(*T)
    ),
    "month names": Case(["Jun 12 1998", "Mar 28 2020", "Jan 13 2020"], D, PARSED),
    "whole month names": Case(["June 12, 1998", "March 28, 2020", "January 13, 2020"], D, PARSED),
    "days and month names": Case(["12-Jun-1998", "28-Mar-2020", "13-Jan-2020"], D, PARSED),
    "months first": Case(["06/12/1998", "03/28/2020", "01/13/2020"], D, PARSED),
    "days first": Case(["12/06/1998", "28/03/2020", "13/01/2020"], D, PARSED),
    "days first, points": Case(["12.6.1998", "28.3.2020", "13.1.2020"], D, PARSED),
    "days first that were said": Case(
        ["02/03/2020"] * 2 + ["03/03/2020"],
        [date(2020, 3, 2)] * 2 + [date(2020, 3, 3)],
        days(date(2020, 3, 2), date(2020, 3, 2), date(2020, 3, 3)),
        settings={"dates": "day_first"},
    ),
    "a form that was said": Case(
        ["1998 12 06", "2020 28 03", "2020 13 01"], D, PARSED, settings={"dates": "%Y %d %m"}
    ),
    "years first": Case(["1998/06/12", "2020/03/28", "2020/01/13"], D, PARSED),
    "eight digits": Case(["19980612", "20200328", "20200113"], [19980612, 20200328, 20200113], PARSED),
    "minutes": Case(
        ["03/28/2020 13:45", "03/29/2020 01:30"],
        [datetime(2020, 3, 28, 13, 45), datetime(2020, 3, 29, 1, 30)],
        days(datetime(2020, 3, 28, 13, 45), datetime(2020, 3, 29, 1, 30)),
    ),
    "half days": Case(
        ["3/28/2020 1:45 PM", "3/29/2020 1:30 AM"],
        [datetime(2020, 3, 28, 13, 45), datetime(2020, 3, 29, 1, 30)],
        days(datetime(2020, 3, 28, 13, 45), datetime(2020, 3, 29, 1, 30)),
    ),
    "words": Case(["Rome", " Oslo ", "Rome"], ["Rome", "Oslo", "Rome"], [0, 1, 0]),
    "words and gaps": Case(["b", "", "NA", "b"], ["b", None, None, "b"], [0, 1, 1, 0]),
    "quoted words": Case(['two\nlines, "so"', "x;y", "x;y"], ['two\nlines, "so"', "x;y", "x;y"], [1, 0, 0]),
    "yes and no": Case(["yes", "no", "yes"], ["yes", "no", "yes"], [0, 1, 0]),
    "numbers that are names": Case(
        ["00501", "94103", "94103"], ["00501", "94103", "94103"], [1, 0, 0], settings={"categories": ["x"]}
    ),
    "names that pandas made decimals": Case(
        ["1.0", "2.0", "2.0"], [1, 2, 2], [1, 0, 0], settings={"categories": ["x"]}
    ),
}


def write(case: Case, folder: Path, targets: list[str], typed: list[Any]) -> tuple[Path, Path]:
    """Write 60 rows of the column as CSV and as Parquet, with a whole number beside it and a target."""
    width, last = len(case.texts), len(targets)
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=case.separator)
        writer.writerow(["x", "n", "y"])
        writer.writerows([case.texts[i % width], i, targets[i // 2 % last]] for i in range(ROWS))
    frame = pl.DataFrame(
        {
            "x": pl.Series([case.values[i % width] for i in range(ROWS)], strict=False),
            "n": range(ROWS),
            "y": [typed[i // 2 % last] for i in range(ROWS)],
        }
    )
    frame.write_parquet(folder / "t.parquet")
    return folder / "t.csv", folder / "t.parquet"


def as_trained(data: FromSamples) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw inputs and targets of all rows with a target, as training holds them, in the file's order."""
    rows = torch.cat(list(data.rows.values())).sort().values
    inputs = data.inputs[rows]  # type: ignore[index]
    if data.scaled_once:
        inputs = inputs * data.scaling.input_std + data.scaling.input_mean
    targets = data.targets[rows]
    return inputs, data.scaling.unscale_values(targets) if targets.is_floating_point() else targets


def as_read_later(data: FromSamples, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as evaluation reads it from a file, by what a checkpoint keeps as plain values."""
    reader = reader_of(json.loads(json.dumps(data.reader)), data.input_shape)
    classes = data.names if data.task == "classification" else []
    blocks = list(reader.read_with_targets(NamedPath("input", str(path)), classes))
    return torch.cat([inputs for inputs, _ in blocks]), torch.cat([targets for _, targets in blocks])


def same(one: torch.Tensor, two: torch.Tensor) -> None:
    torch.testing.assert_close(one.double(), two.double(), equal_nan=True, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_the_same_numbers_in_training_and_ever_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case = COLUMNS[name]
    files = write(case, tmp_path, ["no", "yes"], ["no", "yes"])
    expected = torch.tensor([case.expected()[i % len(case.texts)] for i in range(ROWS)])
    settings = {"missing": ["NA"], **case.settings}
    of_csv, of_parquet = (data_of(path, "y", **settings) for path in files)
    assert [c["name"] for c in of_csv.reader["columns"]] == ["x", "n"], of_csv.preview

    inputs, targets = as_trained(of_csv)
    same(inputs[:, 0], expected)
    same(as_trained(of_parquet)[0], inputs)
    monkeypatch.setattr("descent.data.table.files.BLOCK", 256)  # in many blocks
    for data, path in product((of_csv, of_parquet), files):
        if data is of_parquet and path.suffix == ".csv" and case.settings.keys() & {"dates", "decimal"}:
            continue  # what only a person can tell, nobody told that run
        try:
            later = as_read_later(data, path)
        except ConfigError:  # a run that saw no text does not guess how it is written
            assert (data is of_parquet, path.suffix) == (True, ".csv")
        else:
            same(later[0], inputs)
            same(later[1], targets)

    reader = TableReader.from_description(of_csv.reader)
    same(reader.read_frame(pl.read_csv(files[0], infer_schema=False, separator=case.separator))[1], inputs)
    (tmp_path / "model.json").write_text(json.dumps({"reader": of_csv.reader}))
    same(torch.tensor(load_rows(str(files[0]), str(tmp_path / "model.json"))), inputs)


TARGETS: dict[str, tuple[list[str], list[Any], list[Any]]] = {
    "true and false": (["true", "false"], [True, False], [1, 0]),
    "True and False": (["True", "False"], [True, False], [1, 0]),
    "TRUE and FALSE": (["TRUE", "FALSE"], [True, False], [1, 0]),
    "ones and zeros": (["1", "0"], [1, 0], [1, 0]),
    "ones and zeros with points": (["1.0", "0.0"], [1.0, 0.0], [1, 0]),
    "plus and minus one": (["+1", "-1"], [1, -1], [1, 0]),
    "numbers in their order": (["10", "9", "2"], [10, 9, 2], [2, 1, 0]),
    "words": (["no", "yes", "maybe"], ["no", "yes", "maybe"], [1, 2, 0]),
    "with gaps": (["b", "a", ""], ["b", "a", None], [1, 0, None]),
    "letters of other scripts": (["가", "é"], ["가", "é"], [1, 0]),
    "values": (["1.5", "2e3", ""], [1.5, 2000.0, None], [1.5, 2000.0, None]),
    "currency": (["$1,234.50", "$7.25"], [1234.5, 7.25], [1234.5, 7.25]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_the_same_in_training_and_ever_after(tmp_path: Path, name: str) -> None:
    texts, typed, meant = TARGETS[name]
    files = write(Case(["1", "2", "3"], [1, 2, 3]), tmp_path, texts, typed)
    expected = [meant[i // 2 % len(meant)] for i in range(ROWS)]
    known = torch.tensor([float(value) for value in expected if value is not None])
    for trained in files:
        data = data_of(trained, "y")
        same(as_trained(data)[1].flatten(), known)
        for path in files if name != "currency" or trained == files[0] else files[1:]:
            same(as_read_later(data, path)[1].flatten(), known)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le", "cp949"])
def test_text_in_another_encoding_is_the_same_text(tmp_path: Path, encoding: str) -> None:
    word = "가나" if encoding == "cp949" else "Zürich"
    lines = ["town,n,y", *(f"{(word, 'Bern')[i % 2]},{i},{i // 2 % 2}" for i in range(ROWS))]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode(encoding))
    (tmp_path / "u.csv").write_bytes("\n".join(lines).encode("utf-8"))
    guessed = encoding in ("utf-8", "utf-8-sig", "utf-16")
    if not guessed:
        with pytest.raises(ConfigError, match=r"data.encoding says") as caught:
            data_of(tmp_path / "t.csv", "y")
        assert "\n" not in str(caught.value)
    data = data_of(tmp_path / "t.csv", "y", encoding="auto" if guessed else encoding)
    assert sorted(data.reader["columns"][0]["words"]) == sorted([word, "Bern"])
    (tmp_path / "model.json").write_text(json.dumps({"reader": data.reader}))
    for name in ("t.csv", "u.csv"):  # a file in UTF-8 is read as such, whatever the run's own was in
        if encoding != "utf-16-le" or name == "t.csv":
            same(as_read_later(data, tmp_path / name)[0], as_trained(data)[0])
            same(
                torch.tensor(load_rows(str(tmp_path / name), str(tmp_path / "model.json"))),
                as_trained(data)[0],
            )


@pytest.mark.parametrize(
    ("texts", "separator", "hint"),
    [
        (["1,234", "2,345"], ";", "say data.decimal=point or data.decimal=comma"),
        (["02/03/2020", "04/05/2020"], ",", "say data.dates=day_first or data.dates=month_first"),
        ([*map(str, range(50)), *(f"stray {i}" for i in range(10))], ",", "data.missing may name the others"),
    ],
)
def test_what_can_not_be_told_is_left_out_with_the_option_that_tells(
    tmp_path: Path, texts: list[str], separator: str, hint: str
) -> None:
    path, _ = write(Case(texts, texts, separator=separator), tmp_path, ["a", "b"], ["a", "b"])
    data = data_of(path, "y", max_categories=10)
    (line,) = (line for line in data.preview.splitlines() if "left out  x" in line)
    assert hint in line


def test_a_name_may_have_several_lines_and_quotes(tmp_path: Path) -> None:
    names = ["width,\nin cm", 'the "height"', '5" pipe', "y"]
    header = '"width,\nin cm","the ""height""",5" pipe,y\n'
    rows = "".join(f"{i},{i % 7},{i % 5},{'ab'[i % 2]}\n" for i in range(ROWS))
    (tmp_path / "t.csv").write_text(header + rows)
    data = data_of(tmp_path / "t.csv", "y")
    assert [column["name"] for column in data.reader["columns"]] == names[:-1]
    assert data.preview.count("\n") == 3 + len(names[:-1])  # a line each
    inputs, _ = as_trained(data)
    same(inputs[:, 0], torch.arange(ROWS))
    (tmp_path / "model.json").write_text(json.dumps({"reader": data.reader}))
    same(torch.tensor(load_rows(str(tmp_path / "t.csv"), str(tmp_path / "model.json"))), inputs)
    (tmp_path / "u.csv").write_text(header + "1,2,3,a\n1,2,3,4,5\n")
    with pytest.raises(ConfigError, match="row 2 has 5 values, the header 4"):
        data_of(tmp_path / "u.csv", "y")
    (tmp_path / "v.csv").write_text(f'x,"y\n{rows}' * 1000)  # a quote that nothing closes
    with pytest.raises(ConfigError, match=r"v\.csv: expected"):
        data_of(tmp_path / "v.csv", "y")


@pytest.mark.parametrize(
    ("texts", "separator"), [(["1,234", "2,345"], ";"), (["02/03/2020", "04/05/2020"], ",")]
)
def test_names_are_in_no_doubt(tmp_path: Path, texts: list[str], separator: str) -> None:
    path, _ = write(Case(texts, texts, separator=separator), tmp_path, ["a", "b"], ["a", "b"])
    column = data_of(path, "y", categories=["x"]).reader["columns"][0]
    assert (column["kind"], sorted(column["words"])) == ("category", texts)


def test_a_mark_that_other_columns_leave_no_doubt_of_is_every_columns(tmp_path: Path) -> None:
    rows = [f"1.{i:03};0,{i};{'ab'[i % 2]}" for i in range(100, 160)]
    (tmp_path / "t.csv").write_text("\n".join(["thousands;share;y", *rows]))
    inputs, _ = as_trained(data_of(tmp_path / "t.csv", "y"))
    assert inputs[0].tolist() == pytest.approx([1100, 0.1])


def test_pandas_and_numpy_give_what_polars_gives() -> None:
    frame = pl.DataFrame({"a": [1.5, None, 3.0], "w": ["x", None, " NA"]})
    assert tidy(frame, ["NA"])["w"].to_list() == ["x", None, None]
    pandas = pytest.importorskip("pandas", reason="a person may have it")
    from descent.inference.predictor import as_frame

    theirs = pandas.DataFrame({"a": [1.5, float("nan"), 3.0], "w": ["x", None, " NA"]})
    assert tidy(as_frame(theirs, []), ["NA"]).equals(tidy(frame, ["NA"]))


@pytest.mark.parametrize("encoding", ["klingon"])
def test_words_of_a_format_that_are_none_are_told(tmp_path: Path, encoding: str) -> None:
    path, _ = write(Case(["1", "2"], [1, 2]), tmp_path, ["a", "b"], ["a", "b"])
    with pytest.raises(ConfigError, match=r"^encoding=klingon: expected auto, or an encoding"):
        data_of(path, "y", encoding=encoding)
    with pytest.raises(ConfigError, match=r"^dates=dayfirst: expected .*nearest: day_first"):
        data_of(path, "y", dates="dayfirst")
