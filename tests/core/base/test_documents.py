"""Files that are read: what is whole comes back as it is, everything else ends in one sentence, and soon."""

import os
import time
from pathlib import Path

import pytest
import yaml

from stillpoint.core.base import documents
from stillpoint.core.base.documents import (
    parse_json,
    parse_yaml,
    read_json,
    read_numbers,
    read_rows,
    read_yaml,
)
from stillpoint.core.base.errors import UserError, listed, printable

ROOT = Path(__file__).resolve().parents[3]
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


def refused(work, said: str, within: float = 2.0) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=said) as error:
        work()
    assert time.monotonic() - began < within
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value) and len(str(error.value)) < 400


def test_every_yaml_of_the_house_reads_as_pyyaml_reads_it() -> None:
    files = [path for path in ROOT.rglob("*.yaml") if ".snakemake" not in path.parts]
    assert len(files) > 20
    for path in files:
        assert read_yaml(path) == yaml.safe_load(path.read_text()), path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "more than 200000 values once aliases are expanded"),
        ("a: &a [*a]", r"the alias \*a contains itself"),
        ("a: &a {b: {c: *a}}", r"the alias \*a contains itself"),
        ("[" * 5000 + "]" * 5000, "nested more than 50 levels deep"),
        ("\n".join(" " * depth + "a:" for depth in range(200)), "nested more than 50 levels deep"),
        ("a: 1" + ":1" * 1_500_000, "too long"),
        ("a: [" + "x," * 1_900_000 + "]", "more than 200000 values"),
        ("a: 1\nb: 2\na: 3", r"the key a occurs twice \(line 3\)"),
        ("!!python/object/apply:os.mkdir [x]", "could not determine a constructor"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("a: " + "9" * 5000, "too long"),
        # numbers that no sentence could show
        ("a: 0x" + "f" * 4000, "too long"),
        ("a: 1" + ":1" * 4000, "too long"),
        ("a: 2020-99-99", "month"),
        ("a: !!float x", "not valid YAML"),
        ("a: [", "not valid YAML"),
        ('a: "\x1b[31m"', "control characters"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_yaml_that_is_hostile_or_damaged_is_refused_at_once(text: str, said: str) -> None:
    refused(lambda: parse_yaml(text, "x.yaml"), f"x.yaml is not valid YAML: .*{said}|{said}")


def test_aliases_within_bounds_are_taken() -> None:
    assert parse_yaml("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}", "x") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ("[" * 100_000, "nested too deep"),
        ("[" * 60 + "]" * 60, "nested more than 50"),
        ('{"a": 1', "delimiter"),
        ("9" * 5000, "not a finite number"),
        ("9" * 400, "not a finite number"),
        ("[1]", "a list, not names with values"),
        ("null", "nothing, not names with values"),
        ('"a"', "text, not names with values"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_json_that_is_hostile_or_damaged_is_refused_with_the_remedy(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    refused(
        lambda: read_json(path, remedy="do it again", of=dict), rf"m\.json cannot be read \(.*{said}.*\): do it again"
    )
    refused(lambda: parse_json(text, "m", of=dict), "m cannot be read")


def test_whole_json_comes_back(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('\ufeff{"a": [1, 2.5, null, "\u00d7"]}', encoding="utf-8")
    assert read_json(tmp_path / "m.json") == {"a": [1, 2.5, None, "×"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1\n", "line 2 has 1 cells, the first has 2"),
        (b"a,b\n1,2,3\n", "line 2 has 3 cells"),
        (b"a,a\n1,2\n", "a column occurs twice"),
        (b"a,c\n1,2\n", "it has no column b"),
        (b"a,b\n1,nan\n", "nan is not a finite number"),
        (b"a,b\n1,1e999\n", "1e999 is not a finite number"),
        (b"a,b\n1,x\n", "could not convert"),
        (b'a,b\n1,"' + b"x" * 200_000 + b'"\n', "field larger"),
        (b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_tables_that_are_damaged_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    refused(
        lambda: read_numbers(path, ["a", "b"], remedy="train again"),
        rf"t\.csv cannot be read \(.*{said}.*\): train again",
    )


def test_whole_tables_come_back(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,\n2,0.5\n")
    assert read_numbers(tmp_path / "t.csv", ["a"]) == [{"a": 1.0, "b": None}, {"a": 2.0, "b": 0.5}]
    assert read_rows(tmp_path / "t.csv") == [{"a": "1", "b": ""}, {"a": "2", "b": "0.5"}]
    (tmp_path / "empty.csv").touch()
    assert read_rows(tmp_path / "empty.csv") == []


@pytest.mark.parametrize("read", [read_json, read_yaml, read_rows])
def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "nowhere"):
        refused(lambda name=name: read(tmp_path / name), f"{name} cannot be read")
    refused(lambda: read(Path("/dev/zero")), "it is not a regular file")


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(1 << 40)
    refused(lambda: read_yaml(tmp_path / "large.yaml"), "larger than 4 MiB")


def test_a_sentence_is_one_line_without_terminal_codes() -> None:
    assert str(UserError("a\nb\x1b[31mc\x07")) == r"a\nb\x1b[31mc\x07"
    assert printable("größer × 3 → ok") == "größer × 3 → ok"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more" and len(listed(["x" * 900])) == 120


@pytest.mark.parametrize("text", ["!!timestamp 99-99", "!!float 1" + ":1" * 400, "!!int '1" + ":1" * 500_000 + "'"])
def test_a_value_that_its_tag_does_not_fit_is_refused_at_once(text: str) -> None:
    refused(lambda: parse_yaml(f"a: {text}", "a file"), "a file is not valid YAML")


def test_short_values_without_end_are_refused_before_they_take_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(documents, "JSON_VALUES", 1000)
    monkeypatch.setattr(documents, "CSV_CELLS", 1000)
    for text in ("[" + "[]," * 600 + "[]]", "[" + "1," * 1000 + "1]"):
        refused(lambda text=text: parse_json(text, "a file"), "more than 1,000 values")
        refused(lambda text=text: parse_json(text.encode(), "a file"), "more than 1,000 values")
    assert parse_json("[" + "1," * 900 + "1]", "a file") == [1] * 901
    (tmp_path / "rows.csv").write_text("epoch\n" + "1\n" * 1000)
    refused(lambda: read_rows(tmp_path / "rows.csv"), "more than 1,000 cells")
    (tmp_path / "rows.csv").write_text("epoch\n" + "1\n" * 900)
    assert len(read_rows(tmp_path / "rows.csv")) == 900
