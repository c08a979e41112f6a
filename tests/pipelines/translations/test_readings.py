import json
from pathlib import Path

import pytest

from stillpoint import pipelines
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.translations.passes import published_passes
from stillpoint.pipelines.translations.readings import MODEL, READINGS, RECIPE, compare, main, markdown

PUBLISHED = pipelines.paper("translations").published


def written(folder, seed: int, passes: int, shift: float) -> Run:
    """A run whose test pass after each of the notebook's epochs is the printed one, `shift` added to its loss."""
    run = Run("translations", RECIPE, MODEL, seed, folder)
    run.folder.mkdir(parents=True)
    known = published_passes(PUBLISHED, RECIPE, MODEL)
    losses, times = ["epoch,test_loss,correct,images,test_accuracy"], ["epoch,seconds"]
    for epoch in range(10 * passes + 1):
        there = known.get(epoch // passes) if epoch % passes == 0 else None
        loss, correct = (there.loss + shift, int(there.correct)) if there else (99.0, 0)
        losses.append(f"{epoch},{loss},{correct},10000,{correct / 10000}")
        times.append(f"{epoch},1.0")
    run.test_history.write_text("\n".join(losses) + "\n")
    run.test_timing.write_text("\n".join(times) + "\n")
    run.timing.write_text("\n".join([times[0], *times[2:]]) + "\n")
    return run


@pytest.mark.parametrize("reading", [r for r in READINGS if r.name in ("stated", "passes10")], ids=lambda r: r.name)
def test_a_reading_is_compared_epoch_by_epoch_of_the_notebook(reading, tmp_path):
    runs = [written(tmp_path, seed, reading.passes, shift) for seed, shift in enumerate((0.1, 0.3))]
    row = compare(reading, runs)
    assert row["loss_distance"] == pytest.approx(0.2)  # of the mean over seeds
    assert row["accuracy_distance"] == pytest.approx(0, abs=1e-9)
    assert (row["first_accuracy"], row["last_accuracy"]) == (pytest.approx(63.68), pytest.approx(72.47))
    assert row["steps_per_epoch"] == 240 * reading.passes
    text = markdown({reading.name: row})
    (cells,) = [[c.strip() for c in one.strip("|").split("|")] for one in text.splitlines() if reading.says in one]
    assert cells == [reading.says, "2", str(240 * reading.passes), "63.68", "72.47 ± 0.00", "0.2000", "0.00"]


def test_every_reading_changes_one_stated_number():
    names = [reading.name for reading in READINGS]
    assert len(set(names)) == len(names) and not READINGS[0].settings
    for reading in READINGS[1:]:
        assert len(reading.settings) == 2
        assert reading.batch == 250 or reading.settings == ("TRAIN.BATCH_SIZE", str(reading.batch))


def test_an_unknown_reading_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "batch7"])
    assert "batch7" in capsys.readouterr().err


def test_the_page_holds_what_was_measured():
    root = Path(__file__).parents[3]
    rows = json.loads((root / "docs" / "translations" / "readings.json").read_text())
    assert list(rows) == [reading.name for reading in READINGS]
    table = markdown(rows).split("\n\n")[0]
    assert table in (root / "docs" / "papers" / "translations_details.md").read_text()
