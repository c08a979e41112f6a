"""The board in a real browser: what a reader does with it, without a network and without serious findings of axe-core.

``make check-pages`` runs it. It needs Chromium, found on the PATH or named by the environment's CHROMIUM.
"""

import csv
import io
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect, sync_playwright

from stillpoint.pipelines.board.entries import Entry, number, read_entries
from stillpoint.pipelines.board.gather import kept_board
from stillpoint.pipelines.board.measures import BY_KEY, Measure
from stillpoint.pipelines.board.page import held, html, with_half

ENTRIES = read_entries(kept_board("digits"))
NAMES = [entry.name for entry in ENTRIES]


def sixty() -> list[Entry]:
    """The kept entries, over and over under other names."""
    return [ENTRIES[k % len(ENTRIES)].model_copy(update={"name": f"entry{k}"}) for k in range(60)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.fail("there is no Chromium on the PATH: install it, or name it by CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "board.html"
    path.write_text(html(ENTRIES))
    return path


@pytest.fixture(params=["light", "dark"])
def page(browser: Any, file: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, which may ask the network for nothing and say nothing on the console."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda call: None if call.url.startswith(("file:", "data:", "blob:")) else faults.append(call.url)
    )
    page.goto(file.as_uri())
    yield page
    context.close()
    assert not faults


def names(page: Page) -> Locator:
    return page.locator("#board tbody button.name")


def test_it_sorts_by_a_heading_and_by_the_keyboard(page: Page) -> None:
    expect(names(page)).to_have_text(NAMES)
    heading = page.locator("#board thead th", has_text="worst shift")
    heading.locator("[role=button], button, .dt-column-order").first.focus()
    page.keyboard.press("Enter")
    worst = {entry.name: sum(entry.values("worst_shift_accuracy")) for entry in ENTRIES}
    page.wait_for_url(re.compile("sort=worst_shift_accuracy(%3A|:)desc"))
    found = names(page).all_inner_texts()
    assert [worst[name] for name in found] == sorted(worst.values(), reverse=True)
    page.reload()
    expect(names(page)).to_have_text(found)


def test_it_filters_hides_columns_and_keeps_that_in_the_address(page: Page) -> None:
    page.select_option("#f-padding", "zeros")
    zeros = [entry.name for entry in ENTRIES if entry.padding == "zeros"]
    expect(names(page)).to_have_text(zeros)
    assert len(zeros) < len(NAMES)
    page.locator("details.columns summary").click()
    page.locator("#c-accuracy").uncheck()
    hidden = page.locator("#board thead th", has_text="accuracy (%)")
    expect(hidden).to_have_count(0)
    page.reload()
    expect(names(page)).to_have_text(zeros)
    expect(hidden).to_have_count(0)
    page.locator("#reset").click()
    expect(names(page)).to_have_text(NAMES)


def test_rows_open_side_by_side_with_all_that_they_hold(page: Page) -> None:
    for name in NAMES[:3]:
        page.locator("#board tbody button.name", has_text=name).first.press("Enter")
    expect(page.locator("article.card h3")).to_have_text(NAMES[:3])
    card = page.locator("article.card").first
    assert card.locator("svg rect").count() == 32 * 32
    assert card.locator("tbody tr").count() >= len(ENTRIES[0].seeds)
    assert "stillpoint train board/" in card.inner_text()
    assert f"open={','.join(NAMES[:3])}" in page.url
    boxes = [card.bounding_box() for card in page.locator("article.card").all()]
    assert len({box["y"] for box in boxes if box}) == 1  # side by side
    page.locator("article.card").first.locator("button", has_text="Close").press("Enter")
    expect(page.locator("article.card h3")).to_have_text(NAMES[1:3])
    # the keyboard goes on from the row that was closed
    assert page.evaluate("document.activeElement.textContent") == NAMES[0]


def test_opened_rows_stand_in_one_table_that_marks_what_intervals_tell(page: Page) -> None:
    expect(page.locator("#beside")).to_be_hidden()
    for name in ("strides", "aps3"):
        page.locator("#board tbody button.name", has_text=re.compile(f"^{name}$")).click()
    expect(page.locator("#beside thead th")).to_have_text(["measure", "strides", "aps3"])
    by_name = {entry.name: entry for entry in ENTRIES}
    marked = {}
    for measure in held(ENTRIES):
        row = page.locator("#beside tbody tr").filter(
            has=page.get_by_role("rowheader", name=heading(measure), exact=True)
        )
        found = [number(by_name[name], measure) for name in ("strides", "aps3")]
        assert all(found) and row.locator("td").all_inner_texts() == [with_half(measure, one) for one in found]
        marked[measure.key] = [cell.locator("strong").count() for cell in row.locator("td").all()]
    # far apart, and not apart at all
    assert marked["circular_consistency"] == [0, 1] and marked["inference_time"] == [0, 0]
    for key, marks in marked.items():
        first, second = (number(by_name[name], BY_KEY[key]) for name in ("strides", "aps3"))
        assert first is not None and second is not None
        told = first.half is not None and second.half is not None
        gap = (first.mean - second.mean) * (1 if BY_KEY[key].better == "higher" else -1)
        far = told and abs(gap) > math.hypot(first.half or 0, second.half or 0)
        assert marks == [int(far and gap > 0), int(far and gap < 0)], key


def heading(measure: Measure) -> str:
    return measure.title + {"%": " (%)", "nats": " (nats)", "x": " (× base)", "": ""}[measure.unit]


def test_the_plot_takes_any_two_measures_and_a_point_opens_its_row(page: Page) -> None:
    page.select_option("#x", "inference_time")
    page.select_option("#y", "worst_shift_accuracy")
    page.wait_for_url(re.compile("x=inference_time.*y=worst_shift_accuracy"))
    assert "Not beaten in both measures" in page.locator("#front").inner_text()
    place = page.evaluate("(() => { const p = chart.getDatasetMeta(0).data[0]; return [p.x, p.y]; })()")
    page.locator("#plot").scroll_into_view_if_needed()
    page.locator("#plot").click(position={"x": place[0], "y": place[1]})
    expect(page.locator("article.card h3")).to_have_count(1)


def test_what_it_exports_is_what_the_files_hold(page: Page) -> None:
    with page.expect_download() as download:
        page.locator("#csv").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row["entry"] for row in rows] == NAMES
    stated = [sum(entry.values("accuracy")) / len(entry.seeds) * 100 for entry in ENTRIES]
    assert [float(row["accuracy"]) for row in rows] == pytest.approx(stated)
    with page.expect_download() as download:
        page.locator("#bibtex").click()
    assert Path(download.value.path()).read_text().count("@misc{") == len(NAMES)


def test_axe_finds_nothing_serious(page: Page) -> None:
    page.locator("#board tbody button.name").first.click()
    page.locator("details.columns summary").click()
    found = Axe().run(page).response["violations"]
    assert not [f"{one['id']}: {one['help']}" for one in found if one["impact"] in ("serious", "critical")]


def test_a_phone_scrolls_the_table_and_not_the_page(browser: Any, file: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(file.as_uri())
    page.locator("#board tbody button.name").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_sixty_entries_open_in_under_a_second(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "sixty.html"
    path.write_text(html(sixty()))
    page = browser.new_page()
    session = page.context.new_cdp_session(page)
    # of the page's own thread: what else the machine does is not counted
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(path.as_uri(), wait_until="load")
    assert page.locator("#board tbody tr").count() == 60
    measured = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    page.close()
    assert 0 < measured["TaskDuration"] < 1
