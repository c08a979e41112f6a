"""The data behind the page; ``make check-pages`` tries the page itself in a browser."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

from stillpoint import pipelines
from stillpoint.core.reporting.reading import read_metrics
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines import networks
from stillpoint.pipelines.board import page
from stillpoint.pipelines.board.catalogue import LINES, base_of
from stillpoint.pipelines.board.entries import number, read_entries
from stillpoint.pipelines.board.gather import kept_board
from stillpoint.pipelines.board.measures import BY_KEY
from tests.pipelines.board.test_entries import entry

ROOT = Path(__file__).resolve().parents[3]
KEPT_DIGITS = read_entries(kept_board("digits"))


def data_of(html: str) -> dict:
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(content)


def test_the_page_holds_the_numbers_of_the_files_and_asks_for_nothing_else() -> None:
    html = page.html(KEPT_DIGITS)
    found = {one["name"]: one for one in data_of(html)["entries"]}
    assert list(found) == [one.name for one in KEPT_DIGITS]
    for one in KEPT_DIGITS:
        for key, shown in found[one.name]["numbers"].items():
            exact = number(one, BY_KEY[key])
            assert exact is not None and (shown["mean"], shown["half"]) == (exact.mean, exact.half)
    assert "default-src 'none'" in html
    assert not re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=""", html)


def test_numbers_of_a_part_of_a_data_set_are_not_to_be_cited() -> None:
    for dataset in ("ImageNet (200 of 1000 classes)", "ImageNet (49,000 of 50,000 images)"):
        some = [entry(dataset=dataset)]
        assert "Do not cite" in page.markdown(some) and "Do not cite" in data_of(page.html(some))["part"]
    assert data_of(page.html(KEPT_DIGITS))["part"] == "" and "Do not cite" not in page.markdown(KEPT_DIGITS)


def test_words_that_somebody_sent_stay_words() -> None:
    nasty = "</script><img src=x onerror=alert(1)>@STYLE@"
    html = page.html([entry(method=nasty, dataset=nasty)])
    assert data_of(html)["entries"][0]["method"] == nasty
    assert "<img src=x" not in html
    assert html.count("</script>") == 3
    assert "\\|" not in page.markdown([entry(method="a b")]) and "\\|" in page.markdown([entry(method="a|b")])


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("accuracy", 99.96, "99.96"),
        ("accuracy", 99.99999, "> 99.99"),
        ("accuracy", 100.0, "100"),
        ("accuracy", 93.14, "93.1"),
        ("parameters", 20530, "20,530"),
    ],
)
def test_nothing_below_a_hundred_is_shown_as_a_hundred(key: str, value: float, shown: str) -> None:
    assert page.text(BY_KEY[key], value) == shown


def test_what_an_entry_promises_and_keeps_is_said() -> None:
    assert page.law_of(entry()) == "none" and "No logit changes" in page.law_text(entry())
    assert ": kept to 1e-5" in page.law_text(entry(promise="whole"))
    assert page.law_of(entry(promise="any")) == "unknown"


def test_the_libraries_are_those_that_the_notice_names() -> None:
    vendor = Path(page.HERE) / "vendor"
    named = dict(re.findall(r"^(\S+): .*\nsha256 ([0-9a-f]{64})$", (vendor / "NOTICE").read_text(), re.M))
    assert named == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in vendor.iterdir() if path.name != "NOTICE"
    }
    assert set(named) == {*page.LIBRARIES, page.STYLE}


def test_the_documents_table_is_that_of_the_kept_board() -> None:
    told = page.markdown(KEPT_DIGITS).partition("\n")[2].strip()
    assert told in (ROOT / "docs" / "board_digits.md").read_text()


def test_the_kept_board_is_that_of_the_kept_runs_and_a_wheel_has_it() -> None:
    path = kept_board("digits")
    assert path.is_relative_to(networks.KEPT) and 'glob("runs/board/*/board.json")' in (ROOT / "setup.py").read_text()
    cards = {(run.model, run.seed): run for run in Run.all_kept(networks.KEPT, "board", "digits")}
    assert {(one.name, seed.seed) for one in KEPT_DIGITS for seed in one.seeds} == set(cards)
    for one in KEPT_DIGITS:
        for seed in one.seeds:
            metrics = read_metrics(cards[one.name, seed.seed])
            assert seed.weights == metrics["provenance"]["weights_digest"]
            assert seed.metrics == pytest.approx(metrics["trained"], rel=1e-8)


@pytest.mark.parametrize("recipe", ["digits", "cifar10", "cifar10_fast"])
def test_the_grids_are_of_entries_that_can_be_built(recipe: str) -> None:
    config = pipelines.recipe_config("board", recipe)
    assert len(set(config.grid)) == len(config.grid) >= {"digits": 10}.get(recipe, 24)
    assert config.seeds == 3 and config.grid[0] == "strides"
    side = torch.randn(1, 1 if recipe == "digits" else 3, 32, 32)
    for name in config.grid:
        own = pipelines.configure(f"board/{name}", recipe, ["MODEL.ARCH", "resnet8"])
        assert own.augment.roll == (4 if name.endswith("_shifted") else 0)
        with torch.inference_mode():
            assert pipelines.build(own).eval()(side).shape == (1, 10)


def test_a_stem_that_strides_is_compared_with_one_of_its_stride() -> None:
    assert {name for name in LINES if base_of(name) != "strides"} == {"strided_stem", "twin", "modulus", "scattering"}
