"""Finds the recipe that reproduces the test passes printed by the notebook.

    python -m stillpoint.pipelines.translations.readings

The notebook states one recipe and prints the curve of another. Each reading here changes one stated number, is trained
with the same seeds, and its test passes are compared with the printed ones. It can be interrupted and resumed like any
training, takes half an hour on one core, and writes readings.json and readings.md.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stillpoint.core.base.documents import read_json
from stillpoint.core.base.files import write_atomic, write_json
from stillpoint.core.reporting.columns import Column, show
from stillpoint.core.reporting.writing import markdown_table
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.translations import PAPER
from stillpoint.pipelines.translations.passes import Pass, mean_passes, published_passes

RECIPE, MODEL = "fashion_mnist_batch250", "TwoFullNet"


@dataclass(frozen=True)
class Reading:
    """A recipe: its difference from the stated one, its settings, passes over the images per epoch, and batch size."""

    name: str
    says: str
    settings: tuple[str, ...] = ()
    passes: int = 1
    batch: int = 250

    @property
    def steps(self) -> int:
        """Optimiser steps in one of the notebook's epochs."""
        return self.passes * 60_000 // self.batch


def _batch(size: int) -> Reading:
    return Reading(f"batch{size}", f"batches of {size}", ("TRAIN.BATCH_SIZE", str(size)), batch=size)


READINGS = (
    Reading("stated", "as stated: batches of 250, rate 0.01, momentum 0.5"),
    *(_batch(size) for size in (100, 50, 32, 25, 20)),
    Reading("rate0.1", "rate 0.1", ("TRAIN.LR", "0.1")),
    Reading("momentum0.95", "momentum 0.95", ("TRAIN.MOMENTUM", "0.95")),
    Reading("passes10", "ten passes over the images in an epoch", ("TRAIN.EPOCHS", "100"), passes=10),
)


def train(reading: Reading, seed: int, results: Path, options: Sequence[str]) -> Run:
    """The run of one reading and seed, trained unless it is finished."""
    from stillpoint.pipelines.cli import main as stillpoint

    where = results / reading.name
    words = ["train", f"translations/{MODEL}", "--recipe", RECIPE, "--seed", str(seed), "--results", str(where)]
    if code := stillpoint([*words, *options, *reading.settings]):
        raise SystemExit(code)
    return Run("translations", RECIPE, MODEL, seed, where)


def compare(reading: Reading, runs: list[Run]) -> dict[str, object]:
    """Compares the mean curve over seeds with the printed one: distances, and first and last accuracies."""
    known = published_passes(PAPER.published, RECIPE, MODEL)

    def epochs(passes: list[Pass]) -> list[Pass]:
        return [one for one in passes if one.epoch and one.epoch % reading.passes == 0]

    means = epochs(mean_passes(runs))
    pairs = [(one, known[one.epoch // reading.passes]) for one in means]
    last = [epochs(mean_passes([run]))[-1].percent for run in runs]
    return {
        "says": reading.says,
        "steps_per_epoch": reading.steps,
        "seeds": len(runs),
        "loss_distance": math.sqrt(statistics.fmean((one.loss - there.loss) ** 2 for one, there in pairs)),
        "accuracy_distance": math.sqrt(statistics.fmean((one.percent - there.percent) ** 2 for one, there in pairs)),
        "first_accuracy": means[0].percent,
        "last_accuracy": statistics.fmean(last),
        "last_accuracy_spread": statistics.stdev(last) if len(last) > 1 else None,
        "losses": [one.loss for one in means],
    }


def markdown(rows: dict[str, dict]) -> str:
    """The table of readings, and the notebook's own timings."""
    known = published_passes(PAPER.published, RECIPE, MODEL)
    first, last = known[1], known[max(known)]
    head = ["reading", "n", "steps an epoch", "after 1 epoch (%)", "after 10 epochs (%)"]
    head += ["distance of the losses", "distance of the accuracies (points)"]
    lines = [["printed by the notebook", "1", "", f"{first.percent:.2f}", f"{last.percent:.2f}", "", ""]]
    for row in rows.values():
        lines.append(
            [
                row["says"],
                str(row["seeds"]),
                str(row["steps_per_epoch"]),
                f"{row['first_accuracy']:.2f}",
                show(Column("accuracy", "accuracy"), row["last_accuracy"], row["last_accuracy_spread"]),
                f"{row['loss_distance']:.4f}",
                f"{row['accuracy_distance']:.2f}",
            ]
        )
    epochs = max(known)
    tested = known[0].elapsed
    trained = (last.elapsed - (epochs + 1) * tested) / epochs
    text = markdown_table(head, lines)
    text += (
        "\n\nDistances are root mean squares over the ten epochs, of the mean over n seeds to the printed pass.\n\n"
        f"The notebook's clock: a test pass of 40 batches took {tested:.2f} s, training an epoch {trained:.1f} s, "
        f"{trained / tested:.0f} times as long, for 6 times as many images; as many batches of the test pass's cost "
        f"are {40 * trained / tested:.0f}.\n"
    )
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    form = argparse.ArgumentParser(
        prog="python -m stillpoint.pipelines.translations.readings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    form.add_argument("--results", type=Path, default=Path("results/readings"), help="folder of runs and tables")
    form.add_argument("--data", help="folder of the images, as for `stillpoint train`")
    form.add_argument("--seeds", type=int, default=3, help="trainings of each reading (3)")
    form.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=[r.name for r in READINGS],
        help="train only these; the tables keep the others",
    )
    form.add_argument("--threads", type=int, default=1)
    args = form.parse_args(arguments)
    options = ["--threads", str(args.threads), *(["--data", args.data] if args.data else [])]
    kept = args.results / "readings.json"
    rows = read_json(kept, of=dict) if args.only and kept.is_file() else {}
    for reading in READINGS:
        if args.only and reading.name not in args.only:
            continue
        rows[reading.name] = compare(
            reading, [train(reading, seed, args.results, options) for seed in range(args.seeds)]
        )
        write_json(kept, rows)
        write_atomic(args.results / "readings.md", markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
