"""Tables hold what the files hold: nothing rounded to 100, no number without a file, the same bytes each time."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stillpoint.core.base.errors import UserError
from stillpoint.core.reporting import columns, reading, tables
from stillpoint.core.reporting.published import Published
from stillpoint.core.runs.layout import Run

PUBLISHED = Published.model_validate(
    {
        "entries": [
            {
                "source": "a table",
                "recipes": ["digits"],
                "rows": [{"models": ["net_aps*"], "circular_consistency": 99.5}],
            },
            {
                "source": "an abstract",
                "recipes": ["*"],
                "rows": [{"models": ["*"], "state": "untrained", "accuracy": 10}],
            },
        ]
    }
)


def evaluated(root: Path, model: str, seed: int, trained: dict[str, float], dataset: str = "Digits") -> Run:
    run = Run("aps", "digits", model, seed, root)
    run.folder.mkdir(parents=True)
    untrained = {"accuracy": 0.1, "circular_consistency": 0.5}
    run.metrics.write_text(json.dumps({"dataset": dataset, "untrained": untrained, "trained": trained}))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    found = []
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        plain = {"accuracy": accuracy, "circular_consistency": 0.99998, "circular_max_logit_change": 0.1 * (seed + 1)}
        found.append(evaluated(tmp_path, "net", seed, plain))
        exact = {"accuracy": accuracy - 0.01, "circular_consistency": 1.0, "circular_max_logit_change": 1e-7}
        found.append(evaluated(tmp_path, "net_aps1", seed, exact))
    return found


def test_mean_spread_and_count_are_those_of_the_seeds(runs: list[Run]) -> None:
    table = tables.collect(runs, ["net", "net_aps1"], PUBLISHED)
    cell = table.rows[0].cells["trained"]["accuracy"]
    assert cell.mean == pytest.approx(92) and cell.spread == pytest.approx(2) and cell.n == 3


DAMAGES = [b"", b"\x08", b"{", b"[]", b"\xff\xfe", bytes(64)]
#: whole files of types that NumPy lacks
LACKING = [
    len(head).to_bytes(8, "little") + head + bytes(2)
    for kind, count in (("BF16", 1), ("F8_E4M3", 2), ("F4", 4))
    for head in [f'{{"a":{{"dtype":"{kind}","shape":[{count}],"data_offsets":[0,2]}}}}'.encode()]
]


@pytest.mark.parametrize("content", [*DAMAGES, *LACKING])
def test_damaged_maps_are_told_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    run = Run("aps", "digits", "net", 0, tmp_path)
    assert reading.read_maps(run.maps) == {}
    run.folder.mkdir(parents=True)
    save_file({"trained/map": np.arange(4.0)}, run.maps)
    whole = run.maps.read_bytes()
    assert np.array_equal(reading.read_maps(run.maps)["trained/map"], np.arange(4.0))
    for damaged in (content, whole[:-3]):
        run.maps.write_bytes(damaged)
        with pytest.raises(UserError, match=r"maps\.safetensors is .*damaged .*: evaluate the run again") as error:
            reading.read_maps(run.maps)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [*DAMAGES, b'{"device": "cpu"}'])
def test_a_damaged_account_of_a_training_is_told_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    run = Run("aps", "digits", "net", 0, tmp_path)
    run.folder.mkdir(parents=True)
    run.training.write_bytes(content)
    with pytest.raises(
        UserError, match=r"train\.json (cannot be read|does not say how the run was trained).*: remove it, and"
    ) as error:
        reading.read_training(run)
    assert "\n" not in str(error.value)


def test_a_bound_is_the_largest_over_the_seeds(runs: list[Run]) -> None:
    table = tables.collect(runs, ["net"])
    assert table.rows[0].cells["trained"]["circular_max_logit_change"].mean == pytest.approx(0.3)


def test_rows_follow_the_grid_and_name_what_is_missing(runs: list[Run]) -> None:
    table = tables.collect(runs, ["net_aps1", "net_aps3", "net"])
    assert [row.model for row in table.rows] == ["net_aps1", "net"]
    assert table.missing == ("net_aps3",)


def test_one_seed_has_no_spread(runs: list[Run]) -> None:
    table = tables.collect(runs[:1], ["net"])
    assert table.rows[0].cells["trained"]["accuracy"].spread is None
    assert "±" not in tables.show_cell(columns.COLUMNS[0], table.rows[0].cells["trained"]["accuracy"])


def test_the_papers_number_and_the_difference_stand_beside_ours(runs: list[Run]) -> None:
    table = tables.collect(runs, ["net", "net_aps1"], PUBLISHED)
    plain, exact = (row.cells["trained"]["circular_consistency"] for row in table.rows)
    assert plain.published is None and plain.difference is None
    assert exact.published == 99.5 and exact.difference == pytest.approx(0.5)
    assert "| +0.50 " in tables.to_markdown(table)
    assert any("a table" in note for note in tables.remarks(table))


def test_only_exactly_100_is_shown_as_100() -> None:
    percent = columns.COLUMNS[0]
    shown = [columns.show(percent, value) for value in (100.0, 99.998, 99.9999, 99.99, 95.314)]
    assert shown == ["100", "99.998", "99.9999", "99.99", "95.31"]


def test_equal_values_have_that_value_as_their_mean(runs: list[Run]) -> None:
    table = tables.collect(runs, ["net", "net_aps1"])
    assert table.rows[1].cells["trained"]["circular_consistency"].mean == 100


def test_pareto_front_holds_what_nothing_beats() -> None:
    points = [(90.0, 100.0), (92.0, 99.0), (91.0, 98.0), None, (92.0, 99.0)]
    assert tables.pareto_front(points) == [True, True, False, False, True]


def test_the_same_files_give_the_same_bytes(runs: list[Run], tmp_path: Path) -> None:
    first = tables.contents(tables.collect(runs, ["net"], PUBLISHED), tmp_path)
    again = tables.contents(tables.collect(reversed(runs), ["net"], PUBLISHED), tmp_path)
    assert first == again and {path.suffix for path in first} == {".csv", ".md", ".tex", ".json"}


def test_csv_keeps_full_precision_and_leaves_unknown_cells_empty(runs: list[Run]) -> None:
    rows = list(csv.DictReader(tables.to_csv(tables.collect(runs, ["net"], PUBLISHED)).splitlines()))
    cell = next(
        r for r in rows if (r["network"], r["state"], r["metric"]) == ("net", "trained", "circular_consistency")
    )
    assert float(cell["mean"]) == pytest.approx(99.998, abs=1e-12) and cell["paper"] == ""


def test_a_metric_that_one_seed_lacks_is_left_out(tmp_path: Path) -> None:
    runs = [evaluated(tmp_path, "net", 0, {"accuracy": 0.9, "crop_consistency": 0.8})]
    runs.append(evaluated(tmp_path, "net", 1, {"accuracy": 0.9}))
    assert set(tables.collect(runs, []).rows[0].cells["trained"]) == {"accuracy"}


def test_latex_escapes_what_latex_would_read(runs: list[Run]) -> None:
    text = tables.to_latex(tables.collect(runs, ["net"], PUBLISHED, title="a_b: 50 %"))
    assert r"net\_aps1" in text and r"a\_b: 50 \%" in text and r"$\pm$" in text


def test_no_runs_and_damaged_metrics_are_told_in_a_sentence(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluate a run first"):
        tables.collect([], [])
    runs[0].metrics.write_text('{"trained"')
    with pytest.raises(UserError, match="evaluate the run again"):
        tables.collect(runs, [])


def test_runs_on_different_images_do_not_share_a_table(runs: list[Run], tmp_path: Path) -> None:
    runs.append(evaluated(tmp_path, "other", 0, {"accuracy": 1.0}, dataset="CIFAR-10"))
    with pytest.raises(UserError, match="different data sets"):
        tables.collect(runs, [])


def test_found_runs_are_those_evaluated_up_to_the_seed(runs: list[Run], tmp_path: Path) -> None:
    Run("aps", "digits", "net", 7, tmp_path).folder.mkdir()
    assert len(reading.found_runs("aps", "digits", tmp_path)) == 6
    assert {run.seed for run in reading.found_runs("aps", "digits", tmp_path, seeds=2)} == {0, 1}


@pytest.mark.parametrize("name", ["seed0_old", "seed0.bak", "seed007", "seed \u0661", "seed\u0661", "seed-1"])
def test_a_folder_that_only_begins_as_a_seed_is_no_run(runs: list[Run], tmp_path: Path, name: str) -> None:
    shutil.copytree(runs[0].folder, runs[0].folder.parent / name)
    assert len(reading.found_runs("aps", "digits", tmp_path)) == 6


def test_a_run_that_lies_elsewhere_is_found_under_its_link(runs: list[Run], tmp_path: Path) -> None:
    runs[0].folder.rename(tmp_path / "elsewhere")
    runs[0].folder.symlink_to(tmp_path / "elsewhere")
    assert runs[0] in reading.found_runs("aps", "digits", tmp_path)


def test_runs_that_were_measured_differently_share_no_table(runs: list[Run]) -> None:
    def measured(run: Run, **settings: object) -> None:
        found = json.loads(run.metrics.read_text())
        run.metrics.write_text(
            json.dumps({**found, "evaluate": {"PROTOCOL": "stillpoint", "MAX_SHIFT": 3, **settings}})
        )

    for run in runs:
        measured(run, BATCH_SIZE=run.seed + 1, METRICS=[run.model])
    assert len(tables.collect(runs, []).rows) == 2
    measured(runs[3], MAX_SHIFT=8)
    with pytest.raises(UserError, match=r"seed0 and .*seed1 were measured differently .*MAX_SHIFT is 3 and 8"):
        tables.collect(runs, [])
    for run in runs:
        measured(run, PROTOCOL="authors", BATCH_SIZE=run.seed + 1)
    with pytest.raises(UserError, match=r"BATCH_SIZE is 1 and 2"):
        tables.collect(runs, [])
