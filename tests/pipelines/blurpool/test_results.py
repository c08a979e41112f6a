"""Tables beside the paper's, and pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import write_json
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.blurpool import figures, pages
from stillpoint.pipelines.gathering import gather
from stillpoint.pipelines.results import Results, Shown, shown_by

PUBLISHED = pipelines.paper("blurpool").published


def form(found: Results) -> Shown:
    return shown_by(found.paper, found.config)


def run(root: Path, model: str, recipe: str, seed: int = 0, accuracy: float = 0.9, consistency: float = 0.8) -> Run:
    made = Run("blurpool", recipe, model, seed, root)
    made.folder.mkdir(parents=True)
    trained = {"accuracy": accuracy, "windows_consistency": consistency}
    write_json(made.metrics, {"dataset": "Digits", "trained": trained})
    made.history.write_text("epoch,train_loss,train_accuracy\n1,1.0,0.5\n2,0.5,0.75\n")
    random = torch.Generator().manual_seed(seed)
    maps = {"trained/diagonal_probability": torch.rand(3, 9, generator=random)}
    maps |= {f"trained/feature_distance_map:{k:02d}:layer{k}": torch.rand(5, 5, generator=random) for k in range(7)}
    save_file(maps, made.maps)
    return made


def table(text: str, title: str) -> list[list[str]]:
    """Cells of the table under a heading."""
    lines = text.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|-")]


def test_published_numbers_are_all_there() -> None:
    rows = [row for entry in PUBLISHED.entries for row in entry.rows]
    assert PUBLISHED.weights is not None
    assert len(rows) == 84 and len(PUBLISHED.weights.files) == 59
    assert pages.theirs(PUBLISHED, "resnet50", "imagenet") == pages.Pair(76.16, 89.2)
    assert pages.theirs(PUBLISHED, "resnet50_lpf4", "imagenet") == pages.Pair(77.23, 91.29)
    assert pages.theirs(PUBLISHED, "resnet50_lpf4", "imagenet_finetune") == pages.Pair(77.41, 91.32)
    assert pages.theirs(PUBLISHED, "resnet101_pasa5_g8", "pasa") == pages.Pair(78.6, 92.2)
    assert pages.theirs(PUBLISHED, "resnet18", "digits") == pages.Pair()


def test_ours_are_blank_where_there_is_no_run_and_the_mean_where_there_are(tmp_path: Path) -> None:
    run(tmp_path, "resnet18_lpf3", "imagenet", 0, 0.7, 0.86)
    run(tmp_path, "resnet18_lpf3", "imagenet", 1, 0.72, 0.88)
    run(tmp_path, "resnet18", "imagenet_baseline", 0, 0.6976, 0.8511)
    found = gather("blurpool", "imagenet", tmp_path, None, [])
    text = form(found).pages["from_scratch.md"].text(found)
    assert text.count("\n## ") == 9
    rows = table(text, "resnet18")
    assert [row[0].strip("*") for row in rows[1:]] == list(pages.FILTERS.values())
    assert rows[1][1:] == ["69.74", "85.11", "69.76", "85.11", "1"]
    assert rows[3][3:] == ["**71.00**", "**87.00**", "2"]
    assert all(row[3:] == ["", "", ""] for row in (rows[2], rows[4], rows[5]))
    assert all(row[3:] == ["", "", ""] for row in table(text, "vgg16")[1:])


def test_the_best_are_bold_and_the_front_is_italic(tmp_path: Path) -> None:
    lines = pages.marked(
        [pages.Pair(70, 80, 1), pages.Pair(71, 79, 1), pages.Pair(69, 79, 1), pages.Pair()], list("abcd")
    )
    assert lines == [
        ["*a*", "70.00", "**80.00**"],
        ["*b*", "**71.00**", "79.00"],
        ["c", "69.00", "79.00"],
        ["d", "", ""],
    ]


def test_the_fine_tuned_table_has_twenty_three_networks(tmp_path: Path) -> None:
    run(tmp_path, "vgg16_bn_lpf4", "imagenet_finetune_vgg_bn", 0, 0.75, 0.91)
    found = gather("blurpool", "imagenet_finetune_vgg_bn", tmp_path, None, [])
    rows = [line for line in form(found).pages["finetuned.md"].text(found).splitlines() if line.startswith("|")][2:]
    assert len(rows) == 23
    (row,) = [line for line in rows if line.strip("| *").startswith("vgg16_bn ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == ["73.36", "89.24", "75.13", "91.58", "", "", "**75.00**", "**91.00**"]


def test_the_recipe_s_table_shows_the_paper_s_number_and_the_difference(tmp_path: Path) -> None:
    run(tmp_path, "resnet50_lpf4", "imagenet", 0, 0.77, 0.91)
    (row,) = gather("blurpool", "imagenet", tmp_path, None, []).table.rows
    cell = row.cells["trained"]["windows_consistency"]
    assert cell.published == 91.29 and cell.difference == pytest.approx(-0.29)


def test_pictures_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    for model in ("resnet18", "resnet18_lpf2", "resnet18_lpf5", "vgg11_bn"):
        run(tmp_path, model, "digits")
    found = gather("blurpool", "digits", tmp_path, None, [])
    for name, figure in form(found).figures.items():
        figure.draw(found, tmp_path / f"{name}.png")
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
        assert pixels.shape[0] > 300 and pixels.std() > 5, name
        again = tmp_path / f"{name}_again.png"
        figure.draw(found, again)
        assert again.read_bytes() == (tmp_path / f"{name}.png").read_bytes(), name


@pytest.mark.parametrize("name", ["diagonal", "feature_distance"])
def test_a_picture_of_one_seed_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for seed in (3, 4):
        run(tmp_path, "resnet18", "digits", seed)
    titles: list[str] = []
    monkeypatch.setattr(figures, name, lambda held, path, title: titles.append(title))
    found = gather("blurpool", "digits", tmp_path, None, [])
    form(found).figures[name].draw(found, tmp_path / "a.png")
    assert titles == [f"{found.table.title}, seed 3"]


def test_a_picture_of_what_was_not_measured_asks_for_it(tmp_path: Path) -> None:
    made = run(tmp_path, "resnet18", "digits")
    save_file({"trained/other": torch.zeros(1)}, made.maps)
    found = gather("blurpool", "digits", tmp_path, None, [])
    for name in ("diagonal", "feature_distance"):
        with pytest.raises(UserError, match=f"needs the evaluation {name}"):
            form(found).figures[name].draw(found, tmp_path / f"{name}.png")


def test_a_filter_looks_the_same_in_every_family_also_in_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: (kept.append(figure), path)[1])
    moving = np.array([[0.5, 0.5, 0.5], [0.0, 1.0, 0.0]])
    # the second family lacks a filter that the first has
    models = ["resnet18", "resnet18_lpf2", "resnet18_lpf4", "vgg11", "vgg11_lpf4"]
    figures.diagonal(dict.fromkeys(models, moving), tmp_path / "a.png", title="a long title " * 12)
    (figure,) = kept
    first, second = ([line.get_marker() for line in axis.get_lines()] for axis in figure.axes[:2])
    assert len(set(first)) == 3 and second == [first[0], first[2]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plain", "lpf2", "lpf4"]
    # counted from one: the last of two images moves
    assert figure.axes[0].get_title() == "resnet18\nimage 2 of 2"
    figure.canvas.draw()
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1
