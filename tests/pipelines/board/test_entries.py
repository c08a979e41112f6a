"""Entries as files, the numbers that follow from them, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from stillpoint.core.base.errors import UserError
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.board.entries import (
    Entry,
    board_text,
    disagreements,
    number,
    parsed,
    read_entries,
    together,
)
from stillpoint.pipelines.board.gather import cost_beside
from stillpoint.pipelines.board.measures import BY_KEY, MEASURES

METRICS = {"accuracy": 0.9, "accuracy_standard_error": 0.01, "all_shifts_max_logit_change": 3e-7}


def entry(name: str = "one", *accuracies: float, **fields: Any) -> Entry:
    seeds = [
        {"seed": k, "weights": f"{k:064x}", "metrics": {**METRICS, "accuracy": value}}
        for k, value in enumerate(accuracies or (0.9,))
    ]
    plain = {"method": "m", "network": "n", "dataset": "d", "images": "a" * 64, "count": 100, "recipe": "digits"}
    return Entry.model_validate({"name": name, **plain, "protocol": {"REPEATS": 1}, "seeds": seeds, **fields})


def test_an_interval_is_over_seeds_and_images_together() -> None:
    found = number(entry("one", 0.8, 0.9, 0.85), BY_KEY["accuracy"])
    assert found is not None and found.mean == pytest.approx(85) and found.n == 3
    assert found.of_seeds == pytest.approx(5 / 3**0.5) and found.of_images == pytest.approx(1)
    # Student's 4.303 for two degrees of freedom
    assert found.half == pytest.approx(((4.303 * 5 / 3**0.5) ** 2 + 1.96**2) ** 0.5)
    single = number(entry(), BY_KEY["accuracy"])
    assert single is not None and single.of_seeds is None and single.half == pytest.approx(1.96)


def test_that_nothing_failed_of_a_hundred_is_known_to_three_per_cent() -> None:
    seed = {"seed": 0, "weights": "0" * 64, "metrics": {"accuracy": 1.0, "accuracy_standard_error": 0.0}}
    found = number(entry(seeds=[seed]), BY_KEY["accuracy"])
    assert found is not None and found.mean == 100 and found.half == pytest.approx(3)


def test_a_bound_is_the_largest_of_the_seeds_and_a_law_holds_for_all_or_not() -> None:
    seeds = [
        {"seed": k, "weights": "0" * 64, "metrics": {"all_shifts_max_logit_change": value}}
        for k, value in enumerate((1e-7, 2e-5))
    ]
    broken = entry(seeds=seeds, promise="whole")
    found = number(broken, BY_KEY["all_shifts_max_logit_change"])
    assert found is not None and (found.mean, found.half) == (2e-5, None)
    assert broken.law("whole") is False
    assert entry(promise="whole").law("whole") is True
    assert entry(promise="any").law("any") is None  # fractions were not measured


def test_what_was_not_measured_of_every_seed_has_no_number() -> None:
    seeds = [{"seed": k, "weights": "0" * 64, "metrics": {"accuracy": 0.5} if k else {}} for k in range(2)]
    assert number(entry(seeds=seeds), BY_KEY["accuracy"]) is None
    assert number(entry(cost={"parameters": 5}), BY_KEY["parameters"]).mean == 5  # type: ignore[union-attr]


def test_a_board_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    entries = [entry("one"), entry("two", 0.5, 0.6)]
    path.write_text(board_text(entries))
    assert read_entries(path) == entries
    path.write_text(json.dumps(entries[0].stored()))
    assert read_entries(path) == entries[:1]


def change(**fields: Any) -> dict[str, Any]:
    return {**entry().stored(), **fields}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (change(method="better"), "was changed by hand"),
        ({**change(), "digest": None}, "was changed by hand"),
        (change(seeds=[]), "not an entry of the board: seeds: List should have at least 1 item"),
        (change(name="../x"), "not an entry of the board: name: String should match"),
        (change(more=1), "not an entry of the board: more: Extra inputs"),
        (change(seeds=[*entry().stored()["seeds"]] * 2), "its seeds must differ"),
        (
            change(seeds=[{"seed": 0, "weights": "0" * 64, "metrics": {"accuracy": 1.5}}]),
            "accuracy must be between 0 and 1, got 1.5",
        ),
        (change(map=[[0.5], [0.5, 0.5]]), "the rows of its map must have one length"),
        ([1], "it must be a JSON object"),
    ],
)
def test_a_file_of_another_form_is_refused_in_a_sentence(content: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        parsed(content, "mine.json")
    assert str(error.value).startswith("mine.json") and "\n" not in str(error.value)


def test_entries_that_cannot_share_a_board_are_refused() -> None:
    with pytest.raises(UserError, match="two entries are called 'one'"):
        together([entry(), entry()])
    with pytest.raises(UserError, match=r"two was measured by another protocol than one: EVALUATE.REPEATS is 2, not 1"):
        together([entry(), entry("two", protocol={"REPEATS": 2})])
    with pytest.raises(
        UserError, match=r"two was measured on other images \(d, digest bbbbbbbbbbbb\) than one \(d, digest a{12}\)"
    ):
        together([entry(), entry("two", images="b" * 64)])


def test_numbers_that_weights_do_not_give_are_named() -> None:
    stated = {"accuracy": 0.95, "circular_max_logit_change": 2e-7, "circular_divergence": 0.02}
    assert disagreements(stated, {**stated, "circular_max_logit_change": 4e-7, "accuracy": 0.9511}) == []
    found = disagreements(stated, {"accuracy": 0.81, "circular_max_logit_change": 0.1})
    assert found == ["accuracy 0.81, not 0.95", "circular_max_logit_change 0.1, not 2e-07", "no circular_divergence"]


def test_every_measure_is_said_in_a_sentence_and_no_two_share_a_key() -> None:
    assert len(BY_KEY) == len(MEASURES)
    assert all(measure.sentence.endswith(".") and measure.better in ("higher", "lower") for measure in MEASURES)


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"cost": []}', '{"cost": {"parameters": "1"}}', '{"cost": {"a": true}}', '{"cost": {"a":']
)
def test_damaged_costs_of_a_run_are_refused_in_a_sentence(tmp_path: Path, content: str) -> None:
    run = Run("board", "digits", "plain", 0, tmp_path)
    run.folder.mkdir(parents=True)
    run.beside.write_text('{"cost": {"parameters": 1, "inference_time": 1.5}}')
    assert cost_beside(run) == {"parameters": 1, "inference_time": 1.5}
    run.beside.write_text(content)
    with pytest.raises(UserError, match=r"beside\.json .*: evaluate the run again"):
        cost_beside(run)
