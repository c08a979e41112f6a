"""The numbers in the page of this pipeline are those of the files beside it."""

import csv
from pathlib import Path

import pytest

from stillpoint.core.reporting.columns import COLUMNS, show

ROOT = Path(__file__).parents[3]
SHOWN = {metric.key: metric for metric in COLUMNS}


def page_table(heading: str) -> list[dict[str, str]]:
    """The table of the page that begins with these columns, a dictionary for each line."""
    lines = (ROOT / "pipelines" / "aps" / "README.md").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(heading))
    names = [cell.strip() for cell in lines[start].strip("|").split("|")]
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append(dict(zip(names, (cell.strip() for cell in line.strip("|").split("|")), strict=True)))
    return found


def means(recipe: str) -> dict[tuple[str, str], dict[str, float]]:
    """Mean by metric of each (network, state)."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    with (ROOT / "docs" / "aps" / f"{recipe}.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault((row["network"], row["state"]), {})[row["metric"]] = float(row["mean"])
    return found


@pytest.mark.parametrize(
    ("column", "metric"),
    [
        ("accuracy (%)", "accuracy"),
        ("circular consistency (%)", "circular_consistency"),
        ("crop consistency (%)", "crop_consistency"),
        ("largest relative logit change", "circular_max_logit_change"),
    ],
)
def test_the_cifar_table_is_that_of_its_file(column: str, metric: str) -> None:
    rows, files = page_table("| network | accuracy (%) | circular"), means("cifar10_demo")
    assert [row["network"] for row in rows] == [network for network, state in files if state == "trained"]
    for row in rows:
        assert row[column] == show(SHOWN[metric], files[row["network"], "trained"][metric])


def test_the_table_of_the_u_nets_is_that_of_its_file() -> None:
    rows, files = page_table("| network | state | PSNR (dB)"), means("digits_undersampled")
    assert [(row["network"], row["state"]) for row in rows] == list(files)
    for row in rows:
        _, _, psnr, ssim, shifted, change = row.values()
        own = files[row["network"], row["state"]]
        assert psnr == f"{own['reconstruction_psnr']:.2f}" and ssim == f"{own['reconstruction_ssim']:.3f}"
        assert shifted == f"{own['equivariance_psnr']:.1f}" and change == f"{own['equivariance_psnr_change']:.2f}"
