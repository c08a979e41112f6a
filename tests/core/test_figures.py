"""Figures: written whole, the same bytes for the same numbers, and drawn from every number they are given."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from core import figures, tables
from core.runs import Run


def table_of(root: Path, consistency: float) -> tables.Table:
    runs = []
    for number, model in enumerate(("net", "net_aps1")):
        run = Run("aps", "digits", model, 0, root)
        run.folder.mkdir(parents=True, exist_ok=True)
        exact = {"accuracy": 0.9 + 0.01 * number, "circular_consistency": 1.0 if number else consistency}
        run.metrics.write_text(json.dumps({"dataset": "Digits", "trained": exact}))
        runs.append(run)
    return tables.collect(runs, ["net", "net_aps1"], {}, title="Digits")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    table = table_of(tmp_path, 0.95)
    first = figures.consistency_accuracy(table, tmp_path / "a.png").read_bytes()
    assert figures.consistency_accuracy(table, tmp_path / "b.png").read_bytes() == first


def test_another_consistency_gives_another_picture(tmp_path: Path) -> None:
    first = pixels(figures.consistency_accuracy(table_of(tmp_path, 0.95), tmp_path / "a.png"))
    second = pixels(figures.consistency_accuracy(table_of(tmp_path, 0.80), tmp_path / "b.png"))
    assert first.shape != second.shape or (first != second).any()


def test_an_invariant_network_has_maps_of_one_colour(tmp_path: Path) -> None:
    flat = (np.full((8, 8), 0.9), np.full((8, 8), 1e-7))
    rough = (np.linspace(0.5, 1, 64).reshape(8, 8), np.linspace(1e-3, 1, 64).reshape(8, 8))
    first = figures.shift_maps({"a": flat, "b": flat}, tmp_path / "flat.png", title="t")
    second = figures.shift_maps({"a": flat, "b": rough}, tmp_path / "rough.png", title="t")
    colours = [
        len(np.unique(pixels(path)[:, : pixels(path).shape[1] * 3 // 4].reshape(-1, 3), axis=0))
        for path in (first, second)
    ]
    assert colours[1] > colours[0] + 20


def test_shift_maps_average_accuracy_and_keep_the_largest_change(tmp_path: Path) -> None:
    paths = []
    for seed, value in enumerate((0.5, 1.0)):
        maps = {
            "trained/all_shifts_accuracy_map": np.full((4, 4), value, np.float32),
            "trained/all_shifts_logit_change_map": np.full((4, 4), value / 10, np.float32),
        }
        paths.append(tmp_path / f"{seed}.safetensors")
        save_file(maps, paths[-1])
    found = figures.read_shift_maps(paths)
    assert found is not None
    np.testing.assert_allclose(found[0], 0.75)
    np.testing.assert_allclose(found[1], 0.1)
    assert figures.read_shift_maps([*paths, tmp_path / "missing"]) is None


def test_history_reads_missing_values_as_nan_and_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("epoch,lr,train_loss,train_accuracy,val_loss,val_accuracy\n1,0.1,2.0,0.5,,\n2,0.1,1.0,0.75,,\n")
    history = figures.read_history(path)
    assert history["train_accuracy"].tolist() == [0.5, 0.75] and np.isnan(history["val_loss"]).all()
    picture = figures.learning_curves({"net": [history, history]}, tmp_path / "curves.png", title="t")
    assert pixels(picture).std() > 0


@pytest.mark.filterwarnings("error")
def test_weights_that_are_only_measured_have_empty_curves_and_no_legend(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("epoch,lr,train_loss,train_accuracy,val_loss,val_accuracy\n")
    history = figures.read_history(tmp_path / "history.csv")
    assert figures.learning_curves({"net": [history]}, tmp_path / "curves.png", title="t").is_file()


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3)])
def test_shift_map_shows_grey_and_colour_pictures_and_marks_changed_classes(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    change = np.linspace(0, 1, 25).reshape(5, 5)
    picture = np.full(shape, 0.5)
    kept = figures.shift_map(change, change >= 0, tmp_path / "a.png", title="t", picture=picture)
    lost = figures.shift_map(change, change < 0.5, tmp_path / "b.png", title="t", picture=picture)
    assert (pixels(kept) != pixels(lost)).any()


def test_a_figure_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        figures.shift_map(np.zeros((3, 3)), np.ones((3, 3)), tmp_path / "a.png", title="t", picture=np.zeros((2, 2, 7)))
    assert not list(tmp_path.iterdir())


def test_every_network_of_a_table_looks_like_no_other_and_families_share_a_hue() -> None:
    filters = ["", *(f"_lpf{size}" for size in range(2, 6))]
    grid = [arch + taps for arch in ("resnet18", "mobilenet_v2", "vgg11_bn") for taps in filters]
    look = figures.colours(grid)
    assert list(look) == grid and len(set(look.values())) == len(grid)
    assert len({colour for colour, _ in look.values()}) == len(grid)
    # the same filter has the same marker in every family, and the plain network its family's full colour
    assert {look[arch][1] for arch in grid if arch.endswith("_lpf3")} == {look["vgg11_bn_lpf3"][1]}
    assert [look[arch][0] for arch in grid[::5]] == list(figures.PALETTE[:3])


@pytest.mark.parametrize("count", [2, 7, 8, 23, 49])
def test_networks_that_are_no_families_are_told_apart_by_colour_and_marker(count: int) -> None:
    look = figures.colours([f"net{k}" for k in range(count)])
    assert len(set(look.values())) == count
