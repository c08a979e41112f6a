import json

import pytest

from benchmarks import layers, report
from stillpoint.pipelines.cli import main


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
            reduced, backward = case.get("dtype") == "bfloat16", case["mode"] != "forward"
            # bfloat16 decides the sign of codes at their threshold, for textbook code as for ours
            bound = 0.2 if reduced and backward and case["job"].startswith("Sparse") else 0.02 if reduced else 1e-4
            assert case["contenders"]["stillpoint"]["error"] < bound


def test_the_files_name_their_machine():
    for path in report.RESULTS.glob("layers-*.json"):
        about = json.loads(path.read_text())["machine"]
        assert {"device", "threads", "clock", "load_before", "torch", "peers", "allocator"} <= about.keys()


def test_of_jobs_measured_again_the_faster_run_of_every_contender_stays_in_its_place():
    def row(job: str, size: int, ours: float, plain: float) -> dict:
        times = {"stillpoint": {"median_ms": ours}, "plain": {"median_ms": plain}}
        rest = {"mode": "forward", "baseline": "plain", "bounds": {}, "floor_ms": 1.0, "ratio": ours / plain}
        return {"job": job, "size": size, "contenders": times, **rest}

    before = [("a", 1, 1, 5), ("b", 1, 1, 5), ("b", 2, 2, 5), ("b", 3, 1, 5), ("c", 1, 1, 5)]
    old = {"machine": {"on": "Monday"}, "cases": [row(*one) for one in before]}
    new = {
        "machine": {"on": "Friday"},
        "cases": [row("b", 1, 2, 4), row("b", 2, 1, 6), row("b", 4, 1, 9), row("d", 1, 1, 2)],
    }
    found = layers.again(old, new)
    assert [
        (r["job"], r["size"], *(r["contenders"][side]["median_ms"] for side in ("stillpoint", "plain")), r["ratio"])
        for r in found["cases"]
    ] == [
        *[("a", 1, 1, 5, 0.2), ("b", 1, 1, 4, 0.25), ("b", 2, 1, 5, 0.2), ("b", 4, 1, 9, 1 / 9), ("c", 1, 1, 5, 0.2)],
        ("d", 1, 1, 2, 0.5),
    ]
    assert found["machine"] == {"on": "Monday"} and found["later"] == [{"jobs": ["b", "d"], "on": "Friday"}]


@pytest.mark.parametrize(("option", "least"), [("--rounds", 3), ("--threads", 1)])
def test_bench_refuses_too_few(option, least, capsys):
    assert main(["bench", "layer", option, "0"]) == 2
    assert f"{option} must be at least {least}, not 0" in capsys.readouterr().err
