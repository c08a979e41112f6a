"""What is kept of the texts of modules: the same as reading them, and never trusted where it may be another's."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillpoint.pipelines import code_facts
from stillpoint.pipelines.code_digest import ROOT

TEXT = """
import torch
from stillpoint.core import metrics, layers
TABLE = {"blur": "stillpoint.core.layers.blur:Blur"}
def work():
    \"\"\"Says what it does.\"\"\"
    from stillpoint.core.base.files import digest
    return 1
"""


def forget() -> None:
    code_facts._kept.cache_clear()
    code_facts._place.cache_clear()
    code_facts._new.clear()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("STILLPOINT_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "code"
    forget()


def never(text: str) -> code_facts.Facts:
    raise AssertionError("it was read again")


def test_facts_are_what_the_text_says() -> None:
    found = code_facts.of(TEXT)
    inside = ("stillpoint.core.base.files", ["digest"])
    top = [("torch", []), ("stillpoint.core", ["metrics", "layers"])]
    assert found.imports_at_top == top and sorted(found.imports) == sorted([*top, inside])
    assert found.tables == {"TABLE": ["stillpoint.core.layers.blur"]}
    assert found.program == code_facts.of(TEXT.replace("Says what it does", "Says more")).program
    assert found.program != code_facts.of(TEXT.replace("return 1", "return 2")).program


def test_what_is_kept_is_what_reading_gives(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [path.read_text("utf-8") for path in sorted((ROOT / "core" / "layers").glob("*.py"))]
    first = [code_facts.of(text) for text in texts]
    code_facts.keep()
    forget()
    monkeypatch.setattr(code_facts, "read", never)
    assert [code_facts.of(text) for text in texts] == first == [*map(code_facts.of, texts)]
    with pytest.raises(AssertionError, match="read again"):
        code_facts.of(texts[0] + "x = 1\n")
    assert {path.name[:2] for path in cache.iterdir()} == {"3."}


@pytest.mark.parametrize("harm", ["torn", "changed", "writable", "a list", "not there"])
def test_a_cache_that_is_damaged_or_anothers_is_read_over(cache: Path, harm: str) -> None:
    right = code_facts.of(TEXT)
    code_facts.keep()
    (path,) = cache.iterdir()
    content = json.loads(path.read_text())
    next(iter(content["facts"].values()))[0] = "f" * 64
    texts = {"torn": path.read_text()[:-9], "changed": json.dumps(content), "a list": "[]"}
    path.write_text(texts.get(harm, json.dumps(content)))
    if harm == "writable":
        cache.chmod(0o777)
    if harm == "not there":
        path.unlink()
    forget()
    assert code_facts.of(TEXT) == right


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STILLPOINT_CACHE", str(tmp_path / "file"))
    forget()
    assert code_facts.of(TEXT).tables
    code_facts.keep()


def test_a_full_cache_holds_what_is_in_use(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_facts, "MOST", 2)
    for number in range(3):
        code_facts.of(f"x = {number}")
        code_facts.keep()
    (path,) = cache.iterdir()
    assert len(json.loads(path.read_text())["facts"]) == 1
