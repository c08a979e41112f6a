import json

import pytest

from benchmarks import layers, report
from pipelines.cli import main


def test_the_page_says_what_the_files_say():
    assert report.PAGE.read_text() == report.page()


def test_every_loss_is_listed_and_every_ratio_is_that_of_the_times():
    for measured in report.load().values():
        slower = 0
        for case in measured["cases"]:
            times = {name: entry["median_ms"] for name, entry in case["contenders"].items()}
            assert case["ratio"] == pytest.approx(times["stillpoint"] / times[case["baseline"]], rel=1e-2)
            slower += sum(time < times["stillpoint"] for time in times.values())
        assert len(report.losses(measured)) == slower


def test_what_was_measured_was_correct_first():
    for measured in report.load().values():
        for case in measured["cases"]:
            assert case["contenders"]["stillpoint"]["error"] <= case["tolerance"]


def test_the_files_name_their_machine():
    for path in report.RESULTS.glob("layers-*.json"):
        about = json.loads(path.read_text())["machine"]
        assert {"device", "threads", "clock", "load_before", "torch", "peers", "allocator"} <= about.keys()


def test_rows_measured_again_stand_in_the_place_of_the_old_and_name_their_machine():
    old = {"machine": "old", "cases": [{"job": j, "n": n} for j, n in (("a", 1), ("b", 1), ("b", 2), ("c", 1))]}
    new = {"machine": "new", "cases": [{"job": "b", "n": 7}, {"job": "b", "n": 8}]}
    found = layers.again(old, new)
    assert [(row["job"], row["n"], row.get("machine")) for row in found["cases"]] == [
        ("a", 1, None),
        ("b", 7, "new"),
        ("b", 8, "new"),
        ("c", 1, None),
    ]
    assert found["machine"] == "old"


@pytest.mark.parametrize(("option", "least"), [("--rounds", 3), ("--threads", 1)])
def test_bench_refuses_too_few(option, least, capsys):
    assert main(["bench", "layer", option, "0"]) == 2
    assert f"{option} is at least {least}, not 0" in capsys.readouterr().err
