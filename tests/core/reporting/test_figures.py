"""Figures: written whole, the same bytes for the same numbers, and drawn from every number they are given."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import save_file

from stillpoint.core.reporting import figures, tables
from stillpoint.core.runs.layout import Run


def table_of(root: Path, consistency: float) -> tables.Table:
    runs = []
    for number, model in enumerate(("net", "net_aps1")):
        run = Run("aps", "digits", model, 0, root)
        run.folder.mkdir(parents=True, exist_ok=True)
        exact = {"accuracy": 0.9 + 0.01 * number, "circular_consistency": 1.0 if number else consistency}
        run.metrics.write_text(json.dumps({"dataset": "Digits", "trained": exact}))
        runs.append(run)
    return tables.collect(runs, ["net", "net_aps1"], title="Digits")


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


LESSON = [
    "TwoFullNet",
    "TwoConvTwoFullNet",
    "cnn",
    "cnn_blur",
    "cnn_aps",
    "cnn_average",
    "cnn_average_aps",
    "scattering",
]


@pytest.mark.parametrize("models", [["net", "net_aps1"], LESSON, [f"net{k}" for k in range(12)]])
def test_up_to_twelve_networks_have_a_marker_each_so_that_a_print_in_grey_can_be_read(models: list[str]) -> None:
    assert len({marker for _, marker in figures.colours(models).values()}) == len(models)


def test_a_network_that_is_named_after_one_of_a_family_is_of_that_family() -> None:
    # one dark colour for each family, and the others mixed with white
    dark = [model for model, (colour, _) in figures.colours(LESSON).items() if colour in figures.PALETTE]
    assert dark == ["TwoFullNet", "TwoConvTwoFullNet", "cnn", "scattering"]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved while a test runs."""
    found: list[Figure] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: (found.append(figure), path)[1])
    return found


def test_the_title_fits_and_speaks_only_of_states_and_bars_that_are_drawn(tmp_path: Path, kept: list[Figure]) -> None:
    figures.consistency_accuracy(table_of(tmp_path, 0.95), tmp_path / "a.png")
    assert kept[0].get_suptitle() == "Digits\ntrained networks"
    run = Run("aps", "digits", "net", 1, tmp_path)
    run.folder.mkdir()
    exact = {"accuracy": 0.8, "circular_consistency": 0.7}
    run.metrics.write_text(json.dumps({"dataset": "Digits", "trained": exact, "untrained": exact}))
    runs = [Run("aps", "digits", "net", 0, tmp_path), run]
    runs[0].metrics.write_text(run.metrics.read_text())
    table = tables.collect(runs, ["net"], title="Digits " * 15)
    figures.consistency_accuracy(table, tmp_path / "b.png")
    title = kept[1].get_suptitle()
    assert title.endswith("filled: trained, hollow: untrained; bars: standard deviation over seeds")
    kept[1].canvas.draw()
    box = kept[1]._suptitle.get_window_extent()  # type: ignore[attr-defined]
    assert box.x0 >= 0 and box.x1 <= kept[1].bbox.x1


def test_bars_reach_a_spread_both_ways_and_end_where_the_axis_does() -> None:
    assert figures._reach(None, 5.0, 1.0) is None
    assert figures._reach(2.0, 5.0, 1.0) == [[2.0], [2.0]]
    assert figures._reach(2.0, 2.5, 1.0) == [[1.5], [2.0]]  # beyond 100 % there is nothing
    assert figures._reach(2.0, 0.5, None) == [[2.0], [2.0]]


def test_more_networks_than_markers_have_numbers_beside_their_points(tmp_path: Path, kept: list[Figure]) -> None:
    runs = []
    for k in range(13):
        runs.append(Run("aps", "digits", f"net{k:02d}", 0, tmp_path))
        runs[-1].folder.mkdir(parents=True)
        exact = {"accuracy": 0.5 + k / 100, "circular_consistency": 0.9 - k / 100}
        runs[-1].metrics.write_text(json.dumps({"dataset": "Digits", "trained": exact}))
    for count in (12, 13):
        figures.consistency_accuracy(tables.collect(runs[:count], []), tmp_path / "a.png")
    few, many = (figure.axes[0] for figure in kept)
    assert not few.texts and [text.get_text() for text in many.texts] == [str(k) for k in range(1, 14)]
    assert many.get_legend_handles_labels()[1][-1] == "13  net12"


def test_learning_curves_of_two_networks_differ_in_more_than_colour(tmp_path: Path, kept: list[Figure]) -> None:
    history = {"train_loss": np.array([2.0, 1.0]), "train_accuracy": np.array([0.5, 0.75])}
    figures.learning_curves({"a": [history], "b": [history]}, tmp_path / "a.png", title="t")
    for axis in kept[0].axes:
        first, second = axis.get_lines()
        assert first.get_marker() != second.get_marker()
        assert all(float(tick).is_integer() for tick in axis.get_xticks())


def test_a_cross_is_seen_on_bright_and_on_dark_colours(tmp_path: Path, kept: list[Figure]) -> None:
    figures.shift_map(np.ones((3, 3)), np.zeros((3, 3)), tmp_path / "a.png", title="t")
    crosses = kept[0].axes[0].collections
    assert [cross.get_edgecolor().tolist() for cross in crosses] == [[[0, 0, 0, 1]], [[1, 1, 1, 1]]]
