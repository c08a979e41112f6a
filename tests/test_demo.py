"""The demonstration's table: the same bytes each time, and a comparison that tells rounding from another result."""

import os
from pathlib import Path

import pytest

from stillpoint import pipelines
from stillpoint.pipelines.results import shown_by
from tests import demo, fresh

SEVERAL, ONE = demo.committed_table(3), demo.committed_table(1)
#: a run to its table in one process, because the import of torch is most of a short one's time
PROGRAM = """
import sys
from stillpoint.pipelines.cli import main
where = ["--results", sys.argv[1], "--data", sys.argv[2]]
pairs = ["TRAIN.EPOCHS", "2", "DATA.LIMIT", "64", "MODEL.WIDTH", "0.25", "EVALUATE.REPEATS", "1"]
pairs += ["EVALUATE.LIMIT_ALL_SHIFTS", "1"]
main(["train", "aps/resnet20_aps3", *where, "--threads", "1", "--device", "cpu", *pairs])
folder = f"{sys.argv[1]}/aps/digits/resnet20_aps3/seed0"
main(["evaluate", folder, "--data", sys.argv[2], "--threads", "1", "--device", "cpu"])
assert not main(["table", "aps", "--results", sys.argv[1], *pairs])
"""


def changed(text: str, network: str, metric: str, mean: float, state: str = "trained") -> str:
    """A table whose one number is `mean`."""
    lines = text.splitlines()
    (at,) = (k for k, line in enumerate(lines) if f",{network}," in line and f",{state},{metric}," in line)
    cells = lines[at].split(",")
    cells[lines[0].split(",").index("mean")] = repr(mean)
    lines[at] = ",".join(cells)
    return "\n".join(lines) + "\n"


def test_two_runs_in_other_places_give_the_same_bytes(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    made = []
    for place in ("one", "another place"):
        words = ["-c", PROGRAM, tmp_path / place / "results", tmp_path / place / "data"]
        made.append((place, fresh.start(words, env=environment)))
    for _, process in made:
        done = process.wait()
        assert done.returncode == 0, done.stdout + done.stderr
    folders = [tmp_path / place / "results" / "aps" / "digits" for place, _ in made]
    for suffix in ("csv", "md", "tex", "json"):
        one, other = ((folder / f"table.{suffix}").read_bytes() for folder in folders)
        assert one == other and len(one) > 100, suffix


@pytest.mark.parametrize(("text", "seeds"), [(SEVERAL, 3), (ONE, 1)], ids=["three seeds", "one seed"])
def test_the_committed_table_is_of_the_recipe_that_is_there(text: str, seeds: int) -> None:
    config, found = pipelines.recipe_config("aps", "digits"), demo.rows(text)
    networks = list(dict.fromkeys(name[demo.NAMES.index("network")] for name in found))
    columns = [column.key for column in shown_by(pipelines.paper("aps"), config).columns]
    held = {name[demo.NAMES.index("metric")] for name in found}
    assert networks == list(config.grid) and seeds in (config.seeds, 1)
    assert held <= set(columns) and {"accuracy", "circular_consistency", "circular_max_logit_change"} <= held
    assert {row["n"] for row in found.values()} == {str(seeds)}


def test_the_committed_table_shows_what_the_paper_proves() -> None:
    for text in (SEVERAL, ONE):
        proven = [row for row in demo.rows(text).values() if row["paper"]]
        assert len(proven) == 4 and all(demo.allowed(row, 0) == (100, 100) for row in proven)


def test_a_table_bears_itself_out() -> None:
    assert demo.problems(SEVERAL, SEVERAL) == demo.problems(ONE, ONE, SEVERAL) == []


@pytest.mark.parametrize(("text", "spreads"), [(SEVERAL, ""), (ONE, SEVERAL)], ids=["three seeds", "one seed"])
def test_rounding_is_told_from_another_result(text: str, spreads: str) -> None:
    def said(network: str, metric: str, change: float, state: str = "trained") -> list[str]:
        name = ("aps", "digits", network, state, metric)
        mean = float(demo.rows(text)[name]["mean"])
        return demo.problems(text, changed(text, network, metric, mean + change, state), spreads)

    # as much as another seed would
    assert said("resnet20", "accuracy", 0.5) == said("resnet20", "circular_consistency", -8.0) == []
    assert said("resnet20_aps1", "circular_max_logit_change", 1e-7) == []
    # what is proven may not move at all, nor may a bound leave the range of rounding
    assert len(said("resnet20_aps1", "circular_consistency", -0.01, "untrained")) == 1
    assert len(said("resnet20_aps1", "circular_max_logit_change", 1e-3)) == 1
    assert len(said("resnet20", "accuracy", -20.0)) == 1
    assert len(said("resnet20_lpf3", "circular_consistency", -30.0)) == 1
    assert len(said("resnet20", "circular_max_logit_change", float("nan"))) == 1


def test_other_lines_are_told() -> None:
    lines = SEVERAL.splitlines(keepends=True)
    assert demo.problems(SEVERAL, "".join(lines[:-1])) != []
    assert demo.problems("".join(lines[:-1]), SEVERAL) != []
    assert demo.problems(SEVERAL, "".join([lines[0], *reversed(lines[1:])])) == ["the lines stand in another order"]
    assert demo.problems(SEVERAL, ONE) != []


def test_the_command_says_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "aps" / "digits" / "table.csv"
    assert demo.main(["--results", str(tmp_path)]) == 2
    made.parent.mkdir(parents=True)
    made.write_text(ONE)
    assert demo.main(["--results", str(tmp_path), "--seeds", "1", "--exact"]) == 0
    assert demo.main(["--results", str(tmp_path)]) == 1
    name = ("aps", "digits", "resnet20", "trained", "accuracy")
    made.write_text(changed(ONE, "resnet20", "accuracy", float(demo.rows(ONE)[name]["mean"]) - 0.1))
    capsys.readouterr()
    assert demo.main(["--results", str(tmp_path), "--seeds", "1"]) == 0
    assert "+aps,digits,resnet20" in capsys.readouterr().out
    assert demo.main(["--results", str(tmp_path), "--seeds", "1", "--exact"]) == 1
