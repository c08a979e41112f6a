"""The corruptions: what each does, that its draws depend on the image alone, and that a data set is made whole."""

import hashlib
import io
import json
import math
import signal

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.corruptions import (
    BENCHMARK,
    NAMES,
    SEVERITIES,
    TABLES,
    apply_seeded,
    colour,
    corrupt,
    edges,
    filters,
    weather,
)
from stillpoint.core.data.corruptions.draws import Draws, stream
from stillpoint.core.data.corruptions.frost import FILES, textures
from stillpoint.core.data.corruptions.prepare import MANIFEST, VERSIONS, caption, prepare_cifar10_c
from stillpoint.core.data.corruptions.weather import plasma
from tests import fresh

RANDOM = set(NAMES) - {
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate"
}  # fmt: skip


def pictures(count: int = 6, side: int = 32) -> np.ndarray:
    """Smooth colourful pictures with an edge in each."""
    rng = np.random.RandomState(1)
    smooth = ndimage.gaussian_filter(rng.uniform(size=(count, side, side, 3)), (0, 2, 2, 0))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    smooth[:, side // 3 :, side // 2 :] *= 0.5
    return (smooth * 255).astype(np.uint8)


X = pictures()


def test_there_are_nineteen_of_which_fifteen_are_the_benchmark():
    assert len(NAMES) == len(set(NAMES)) == 19
    assert BENCHMARK[-1] == "jpeg_compression"
    assert all(set(table) == set(NAMES) for table in TABLES.values())
    assert all(len(rows) == 5 for table in TABLES.values() for rows in table.values())


@pytest.mark.parametrize("name", NAMES)
def test_an_image_depends_on_its_number_and_seed_and_not_on_its_batch(name):
    whole = corrupt(X, name, 3)
    numbers = np.array([4, 1])
    assert np.array_equal(corrupt(X[numbers], name, 3, indices=numbers), whole[numbers])
    other_number = np.array_equal(corrupt(X[:1], name, 3, indices=[7]), whole[:1])
    other_seed = np.array_equal(corrupt(X[:1], name, 3, seed=1), whole[:1])
    assert other_number == other_seed == (name not in RANDOM)


@pytest.mark.parametrize("name", NAMES)
def test_every_severity_changes_the_picture_and_the_input_is_left_alone(name):
    before = X.copy()
    distances = []
    for severity in SEVERITIES:
        out = corrupt(X, name, severity)
        assert out.dtype == np.uint8
        assert out.shape == X.shape
        distances.append(np.abs(out.astype(int) - X).mean())
    assert np.array_equal(X, before)
    assert min(distances) > 0
    if name not in {"saturate", "elastic_transform", "spatter", "glass_blur"}:  # whose constants do not rise in order
        assert distances[4] > distances[0]


@pytest.mark.parametrize("side", [64, 224])
def test_larger_images_have_constants_of_their_own(side):
    images = pictures(2, side)
    for name in NAMES:
        out = corrupt(images, name, 4)
        assert out.shape == images.shape
        assert not np.array_equal(out, images)


def test_noise_has_the_mean_and_spread_it_says():
    grey = np.full((40, 32, 32, 3), 128, np.uint8)

    def values(name: str) -> np.ndarray:
        return (corrupt(grey, name, 1).astype(float) + 0.5) / 255  # half a level was cut off

    level, count = 128 / 255, 40 * 32 * 32 * 3
    for name, spread in {
        "gaussian_noise": 0.04, "speckle_noise": 0.06 * level, "shot_noise": math.sqrt(level / 500)
    }.items():  # fmt: skip
        got = values(name)
        assert abs(got.mean() - level) < 5 * spread / math.sqrt(count) + 1e-4
        assert abs(got.std() / spread - 1) < 0.02
    impulse = corrupt(grey, "impulse_noise", 5)
    for extreme in (0, 255):
        assert abs((impulse == extreme).mean() - 0.035) < 0.002


def test_a_constant_picture_survives_blurs_and_geometry():
    grey = np.full((2, 32, 32, 3), 100, np.uint8)
    for name in ("glass_blur", "motion_blur", "zoom_blur", "pixelate", "jpeg_compression", "elastic_transform"):
        for severity in SEVERITIES:
            assert np.abs(corrupt(grey, name, severity).astype(int) - 100).max() <= 1


def test_the_gaussian_blur_of_a_point_is_a_gaussian():
    point = np.zeros((1, 33, 33))
    point[0, 16, 16] = 1
    taps = np.exp(-((np.arange(33) - 16) ** 2) / 2)
    taps[np.abs(np.arange(33) - 16) > 4] = 0
    taps /= taps.sum()
    np.testing.assert_allclose(filters.gaussian(point, 1.0)[0], np.outer(taps, taps), atol=1e-12)


def test_motion_blur_leaves_a_one_sided_trail_in_its_direction():
    point = np.zeros((3, 32, 32), np.uint8)
    point[:, 16, 16] = 255
    out = filters.motion_blur(point, 6, 2, np.array([0.0, 90.0, 180.0]))
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    trail = np.floor(255 * weights / weights.sum() + 1e-9)
    assert np.abs(out[0, 16, 16:3:-1].astype(int) - trail).max() <= 1
    assert np.abs(out[1, 16:3:-1, 16].astype(int) - trail).max() <= 1
    assert np.abs(out[2, 16, 16:29].astype(int) - trail).max() <= 1
    assert out[0].sum() == out[0, 16].sum()


def test_zoom_is_scipys_on_the_centre():
    image = X[:1] / 255.0
    for factor in (1.0, 1.07, 1.25, 2.25):
        crop = math.ceil(32 / factor)
        start = (32 - crop) // 2
        centre = image[0, start : start + crop, start : start + crop]
        large = ndimage.zoom(centre, (factor, factor, 1), order=1)
        trim = (large.shape[0] - 32) // 2
        np.testing.assert_allclose(
            filters.zoom(image, factor)[0], large[trim : trim + 32, trim : trim + 32], rtol=0, atol=1e-12
        )


def test_bilinear_values_are_scipys_with_reflection():
    rng = np.random.RandomState(0)
    image = rng.uniform(size=(1, 9, 7, 1))
    rows, columns = rng.uniform(-9, 17, (1, 5, 5)), rng.uniform(-7, 13, (1, 5, 5))
    want = ndimage.map_coordinates(image[0, ..., 0], [rows[0], columns[0]], order=1, mode="reflect")
    np.testing.assert_allclose(filters.bilinear(image, rows, columns)[0, ..., 0], want, atol=1e-12)


def test_hsv_comes_back_and_knows_pure_colours():
    rng = np.random.RandomState(0)
    x = rng.uniform(size=(500, 3))
    np.testing.assert_allclose(colour.hsv_to_rgb(colour.rgb_to_hsv(x)), x, atol=1e-12)
    pure = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5], [0, 0, 0]])
    np.testing.assert_allclose(colour.rgb_to_hsv(pure)[:, 0], [0, 1 / 3, 2 / 3, 0, 0])
    np.testing.assert_allclose(colour.rgb_to_hsv(pure)[:, 1:], [[1, 1], [1, 1], [1, 1], [0, 0.5], [0, 0]])


def test_plasma_fills_zero_to_one_and_wraps_around():
    mist = plasma(Draws(np.arange(20)), 32, 2.0)
    assert mist.min(axis=(1, 2)).tolist() == [0.0] * 20
    assert mist.max(axis=(1, 2)).tolist() == [1.0] * 20
    across = np.abs(np.roll(mist, 1, axis=2) - mist).mean(axis=(0, 1))
    assert across[0] < 1.5 * across[1:].mean()  # the seam is no rougher than the rest


def test_edges_are_found_where_a_step_is_and_weak_ones_only_beside_strong_ones():
    step = np.zeros((1, 16, 16), np.uint8)
    step[:, :, 8:] = 200
    found = edges.canny(step, 50, 150)
    assert found[0].sum(axis=0).tolist() == [0] * 7 + [16] + [0] * 8 or found[0].sum() == 16
    weak = np.zeros((1, 16, 16), np.uint8)
    weak[:, :, 8:] = 30  # a gradient of 120: above the low threshold, below the high one
    assert not edges.canny(weak, 50, 150).any()
    joined = weak.copy()
    joined[:, :4, 8:] = 200
    assert edges.canny(joined, 50, 150)[0, 12].any()


def test_distances_are_the_chamfer_lengths_up_to_the_limit():
    marks = np.zeros((2, 30, 30), bool)
    marks[0, 3, 4] = True
    got = edges.distance(marks, 20)
    assert got[0, 3, 4] == 0
    assert got[0, 3, 10] == 6
    np.testing.assert_allclose([got[0, 6, 7], got[0, 4, 6], got[0, 5, 8]], [4.2, 2.1969, 4.3938], atol=1e-4)
    assert got[0, 29, 29] == 20
    assert (got[1] == 20).all()


def test_equalisation_reaches_both_ends_and_leaves_a_single_level():
    x = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16) // 4 + 90, np.full((16, 16), 7, np.uint8)])
    out = edges.equalise(x)
    assert (out[0].min(), out[0].max()) == (0, 255)
    assert np.array_equal(out[1], x[1])


@pytest.mark.parametrize("shape", [(2, 40, 36, 3), (2, 36, 40)])
def test_a_large_filter_is_the_same_sum(monkeypatch, shape):
    x, kernel = np.random.RandomState(0).uniform(size=shape), np.random.RandomState(1).uniform(size=(13, 11))
    fast = filters.correlate(x, kernel)
    monkeypatch.setattr(filters, "LARGE", kernel.size)
    assert fast.shape == x.shape and np.allclose(fast, filters.correlate(x, kernel), rtol=0, atol=1e-12)
    assert all(np.count_nonzero(filters.disk(*row)) <= 25 for row in TABLES[32]["defocus_blur"])


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1])
def test_a_stream_is_that_of_numpy_and_not_that_of_another(seed):
    own, numpy, other = stream(seed), np.random.RandomState(seed), stream(7)
    other.normal(size=3)
    for draw in ("normal", "random_sample", "standard_exponential"):
        assert np.array_equal(getattr(own, draw)(size=701), getattr(numpy, draw)(size=701))
    assert np.array_equal(own.poisson(3.0, 9), numpy.poisson(3.0, 9)) and own.randint(5) == numpy.randint(5)


def test_nothing_spattered_leaves_the_picture(monkeypatch):
    monkeypatch.setattr(Draws, "normal", lambda self, loc, scale, *shape: np.zeros((len(self), *shape)))
    assert np.array_equal(corrupt(X, "spatter", 1), X)


def test_frost_takes_photographs_from_a_folder(tmp_path):
    for number, name in enumerate(FILES):
        Image.fromarray(np.full((200, 220, 3), 40 * number, np.uint8)).save(tmp_path / name)
    ice = textures(tmp_path, 32)
    assert [part.shape for part in ice] == [(40, 44, 3)] * 5
    black = np.zeros((20, 32, 32, 3), np.uint8)
    levels = {int(image[0, 0, 0]) for image in corrupt(black, "frost", 5, frost_folder=tmp_path)}
    assert len(levels) > 1
    assert levels <= {int(0.45 * 40 * n) + d for n in range(5) for d in (-1, 0, 1)}
    (tmp_path / FILES[2]).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"frost3\.png cannot be decoded"):
        corrupt(black, "frost", 1, frost_folder=tmp_path)
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / FILES[2])
    with pytest.raises(UserError, match=r"frost3\.png is 20x20 after shrinking"):
        corrupt(black, "frost", 1, frost_folder=tmp_path)
    (tmp_path / FILES[2]).unlink()
    with pytest.raises(UserError, match=r"frost3\.png is missing"):
        corrupt(black, "frost", 1, frost_folder=tmp_path)


@pytest.mark.parametrize(
    ("side", "shape", "made"),
    [
        (32, (203, 209), "afcb85582c5a387d2b1b607a771b1e0c4ef328c4ecee0a51571f47ac54bdff0c"),
        (64, (218, 223), "f5d3e907c27c64d797a6c25e1ed7abef087e778f65bd5ca95a045c99835168d4"),
    ],
)
def test_photographs_shrink_as_opencv_shrinks_by_a_factor_that_does_not_divide_them(tmp_path, side, shape, made):
    # digests of cv2.resize(pixels, (0, 0), fx=f, fy=f), f = 0.2 and 0.3, OpenCV 4.11.0
    pixels = np.random.RandomState(7).randint(0, 256, (*shape, 3)).astype(np.uint8)
    for name in FILES:
        Image.fromarray(pixels).save(tmp_path / name, format="PNG")
    shrunk = textures(tmp_path, side)[0]
    assert hashlib.sha256(shrunk.tobytes()).hexdigest() == made
    if side == 32:
        assert np.array_equal(shrunk, pixels[2::5, 2::5])


@pytest.mark.parametrize(("keep", "weight"), sorted({row for table in TABLES.values() for row in table["frost"]}))
def test_frost_of_every_value_and_ice_is_their_sum_cut_to_8_bits(monkeypatch, keep, weight):
    x, ice = (part.astype(np.uint8).reshape(64, 32, 32, 1) for part in np.divmod(np.arange(256 * 256), 256))
    monkeypatch.setattr(Draws, "each", lambda self, draw: ice)
    made = weather.frost(x, Draws(np.zeros(64, int)), keep, weight, textures=())
    wanted = [int(min(keep * value + weight * cold, 255.0)) for value in range(256) for cold in range(256)]
    assert made.dtype == np.uint8 and np.array_equal(made.ravel(), wanted)


def test_frost_is_made_again_when_its_photographs_change(tmp_path):
    def made() -> list[str]:
        told = []
        keep = {"progress": lambda name, done, total: told.append(name), "frost_folder": tmp_path}
        prepare_cifar10_c(X, LABELS, tmp_path / "made", ("frost", "contrast"), **keep)
        return sorted(set(told))

    for level in (10, 20):
        for name in FILES:
            Image.fromarray(np.full((200, 220, 3), level, np.uint8)).save(tmp_path / name, format="PNG")
        assert made() == (["contrast", "frost"] if level == 10 else ["frost"])
        assert made() == []
    assert caption(tmp_path / "made") == "generated with seed 0"


def test_jpeg_is_that_of_the_quality():
    file = io.BytesIO()
    Image.fromarray(X[0]).save(file, "JPEG", quality=58)
    assert np.array_equal(corrupt(X[:1], "jpeg_compression", 3)[0], np.asarray(Image.open(file)))


@pytest.mark.parametrize(
    ("images", "name", "severity", "said"),
    [
        (X, "gausian_noise", 1, "unknown corruption 'gausian_noise'; nearest: gaussian_noise"),
        (X, "fog", 6, "unknown severity 6 of fog: choose from 1, 2, 3, 4, 5"),
        (X[:, :30, :30], "fog", 1, "defined for images of 32x32, 64x64, 224x224, not 30x30"),
        (X / 255.0, "fog", 1, "take uint8 images"),
        (X[..., 0], "fog", 1, "take uint8 images"),
    ],
)
def test_what_cannot_be_corrupted_is_named(images, name, severity, said):
    with pytest.raises(UserError, match=said):
        corrupt(images, name, severity)


def test_each_image_needs_an_index():
    with pytest.raises(ValueError, match="each of 6 images needs an index"):
        corrupt(X, "fog", 1, indices=[1])


LABELS = np.arange(6)


def test_a_data_set_has_the_published_layout_and_any_part_can_be_made_alone(tmp_path):
    seen = []
    digests = prepare_cifar10_c(
        X, LABELS, tmp_path, ("fog", "contrast"), progress=lambda name, done, total: seen.append((name, done, total))
    )
    array = np.load(tmp_path / "fog.npy")
    assert (array.dtype, array.shape) == (np.uint8, (30, 32, 32, 3))
    assert np.load(tmp_path / "labels.npy").tolist() == LABELS.tolist() * 5
    assert np.load(tmp_path / "labels.npy").dtype == np.uint8
    assert np.array_equal(array[3 * 6 + 2], corrupt(X[2:3], "fog", 4, indices=[2])[0])
    assert seen[-1] == ("contrast", 30, 30)
    assert sorted(digests) == ["contrast", "fog"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contrast.npy", "fog.npy", "labels.npy", MANIFEST]


def test_workers_change_no_byte(tmp_path):
    many = np.tile(X, (200, 1, 1, 1))
    one = prepare_cifar10_c(many, np.tile(LABELS, 200), tmp_path / "1", ("gaussian_noise",), (1, 3), workers=1)
    two = prepare_cifar10_c(many, np.tile(LABELS, 200), tmp_path / "2", ("gaussian_noise",), (1, 3), workers=2)
    assert one == two


def test_what_is_there_is_kept_and_what_is_stale_or_damaged_is_made_again(tmp_path):
    def prepare(seed: int = 0) -> list[str]:
        made = []
        prepare_cifar10_c(
            X, LABELS, tmp_path, ("fog", "snow"), seed=seed, progress=lambda n, done, total: made.append(n)
        )
        return sorted(set(made))

    assert prepare() == ["fog", "snow"]
    assert prepare() == []
    (tmp_path / "fog.npy").write_bytes((tmp_path / "fog.npy").read_bytes()[:1000])
    assert prepare() == ["fog"]
    assert prepare(seed=1) == ["fog", "snow"]


def test_only_the_array_of_a_formula_that_changed_is_made_again(tmp_path, monkeypatch):
    def made() -> list[str]:
        told = []
        keep = {"progress": lambda name, done, total: told.append(name)}
        prepare_cifar10_c(X, LABELS, tmp_path, ("frost", "contrast"), **keep)
        return sorted(set(told))

    with monkeypatch.context() as before:
        before.setitem(VERSIONS, "frost", 1)
        assert made() == ["contrast", "frost"]
    assert made() == ["frost"] and made() == []


def test_published_files_are_never_overwritten(tmp_path):
    np.save(tmp_path / "fog.npy", np.zeros((30, 32, 32, 3), np.uint8))
    prepare_cifar10_c(X, LABELS, tmp_path, ("fog", "contrast"), seed=5)
    assert not np.load(tmp_path / "fog.npy").any()
    assert sorted(json.loads((tmp_path / MANIFEST).read_text())) == ["contrast"]


def test_labels_of_published_files_are_never_overwritten(tmp_path):
    np.save(tmp_path / "fog.npy", np.zeros((30, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 5)[::-1])
    with pytest.raises(UserError, match=r"labels\.npy are of other images.*and fog there were not made here"):
        prepare_cifar10_c(X, LABELS, tmp_path, ("contrast",))
    (tmp_path / "labels.npy").write_bytes((tmp_path / "labels.npy").read_bytes()[:140])
    with pytest.raises(UserError, match=r"labels\.npy cannot be read"):
        prepare_cifar10_c(X, LABELS, tmp_path, ("contrast",))
    (tmp_path / "fog.npy").unlink()
    prepare_cifar10_c(X, LABELS, tmp_path, ("contrast",))
    assert np.load(tmp_path / "labels.npy").tolist() == LABELS.tolist() * 5


def test_the_caption_tells_the_seed_and_what_frost_is(tmp_path):
    assert caption(tmp_path) == ""
    prepare_cifar10_c(X, LABELS, tmp_path, ("contrast",), seed=3)
    assert caption(tmp_path) == "generated with seed 3"
    prepare_cifar10_c(X, LABELS, tmp_path, ("frost",), seed=3)
    assert caption(tmp_path) == "generated with seed 3; frost is a computed texture, not the published photographs"


def test_bad_requests_are_refused_before_anything_is_written(tmp_path):
    target = tmp_path / "new"
    with pytest.raises(UserError, match="unknown corruption 'rain'"):
        prepare_cifar10_c(X, LABELS, target, ("rain",))
    with pytest.raises(UserError, match="6 images and 5 labels"):
        prepare_cifar10_c(X, LABELS[:5], target)
    with pytest.raises(UserError, match="ascending order"):
        prepare_cifar10_c(X, LABELS, target, ("fog",), (3, 1))
    assert not target.exists()


def test_a_stopped_preparation_leaves_whole_files_and_goes_on(tmp_path):
    script = f"""
import os, signal, sys
import numpy as np
from stillpoint.core.data.corruptions.prepare import prepare_cifar10_c
x = np.arange(4 * 32 * 32 * 3, dtype=np.uint8).reshape(4, 32, 32, 3)
def stop(name, done, total):
    if name == "fog" and done > 4:
        os.kill(os.getpid(), signal.SIGKILL)
prepare_cifar10_c(x, np.arange(4), __import__("pathlib").Path({str(tmp_path)!r}), ("contrast", "fog"), progress=stop)
"""
    done = fresh.run(["-c", script], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert sorted(p.name for p in tmp_path.iterdir()) == ["contrast.npy", "labels.npy", MANIFEST]
    x = np.arange(4 * 32 * 32 * 3, dtype=np.uint8).reshape(4, 32, 32, 3)
    made = []
    prepare_cifar10_c(
        x, np.arange(4), tmp_path, ("contrast", "fog"), progress=lambda name, done, total: made.append(name)
    )
    assert set(made) == {"fog"}


def test_given_seeds_restart_the_stream_for_every_image():
    same = np.stack([X[0], X[0]])
    out = apply_seeded(same, "gaussian_noise", 2, np.array([9, 9]))
    assert np.array_equal(out[0], out[1])
    stream = np.random.RandomState(9)
    want = ((X[0] / 255.0 + stream.normal(0, 0.06, X[0].shape)).clip(0, 1) * 255).astype(np.uint8)
    assert np.array_equal(out[0], want)


def rows(text):
    return {
        name: tuple(json.loads(row)) for name, _, row in (line.partition(" ") for line in text.strip().splitlines())
    }


#: copied from the public description of both sets, in its own notation, apart from the tables under test
IMAGENET = rows("""
gaussian_noise [0.08, 0.12, 0.18, 0.26, 0.38]
shot_noise [60, 25, 12, 5, 3]
impulse_noise [0.03, 0.06, 0.09, 0.17, 0.27]
defocus_blur [[3, 0.1], [4, 0.5], [6, 0.5], [8, 0.5], [10, 0.5]]
glass_blur [[0.7, 1, 2], [0.9, 2, 1], [1, 2, 3], [1.1, 3, 2], [1.5, 4, 2]]
motion_blur [[10, 3], [15, 5], [15, 8], [15, 12], [20, 15]]
zoom_blur [[1.11, 0.01], [1.16, 0.01], [1.21, 0.02], [1.26, 0.02], [1.31, 0.03]]
frost [[1, 0.4], [0.8, 0.6], [0.7, 0.7], [0.65, 0.7], [0.6, 0.75]]
fog [[1.5, 2], [2, 2], [2.5, 1.7], [2.5, 1.5], [3, 1.4]]
elastic_transform [[488, 170.8, 24.4], [488, 19.52, 48.8], [12.2, 2.44, 4.88], [17.08, 2.44, 4.88], [29.28, 2.44, 4.88]]
pixelate [0.6, 0.5, 0.4, 0.3, 0.25]
jpeg_compression [25, 18, 15, 10, 7]
speckle_noise [0.15, 0.2, 0.35, 0.45, 0.6]
gaussian_blur [1, 2, 3, 4, 6]
saturate [[0.3, 0], [0.1, 0], [2, 0], [5, 0.1], [20, 0.2]]
""")
TINY = rows("""
gaussian_noise [0.04, 0.08, 0.12, 0.15, 0.18]
shot_noise [250, 100, 50, 30, 15]
impulse_noise [0.01, 0.02, 0.05, 0.08, 0.14]
defocus_blur [[0.5, 0.6], [1, 0.1], [1.5, 0.1], [2.5, 0.01], [3, 0.1]]
glass_blur [[0.1, 1, 1], [0.5, 1, 1], [0.6, 1, 2], [0.7, 2, 1], [0.9, 2, 2]]
motion_blur [[10, 1], [10, 1.5], [10, 2], [10, 2.5], [12, 3]]
zoom_blur [[1.06, 0.01], [1.11, 0.01], [1.16, 0.01], [1.21, 0.01], [1.26, 0.01]]
frost [[1, 0.3], [0.9, 0.4], [0.8, 0.45], [0.75, 0.5], [0.7, 0.55]]
fog [[0.4, 3], [0.7, 3], [1, 2.5], [1.5, 2], [2, 1.75]]
elastic_transform [[0, 0, 5.12], [3.2, 19.2, 3.84], [6.4, 5.12, 3.84], [6.4, 1.92, 1.92], [10.24, 1.92, 1.28]]
pixelate [0.9, 0.8, 0.7, 0.6, 0.5]
jpeg_compression [65, 58, 50, 40, 25]
speckle_noise [0.15, 0.2, 0.25, 0.3, 0.35]
gaussian_blur [0.5, 0.75, 1, 1.25, 1.5]
saturate [[0.3, 0], [0.1, 0], [2, 0], [5, 0.1], [30, 0.2]]
""")


@pytest.mark.parametrize(("side", "described"), [(224, IMAGENET), (64, TINY)])
def test_the_constants_of_larger_images_are_those_that_are_described_in_public(side, described):
    for name, want in described.items():
        for ours, theirs in zip(TABLES[side][name], want, strict=True):
            assert ours == pytest.approx(tuple(theirs) if isinstance(theirs, list) else theirs, rel=1e-12), name
    # both sides share light and contrast
    for name in ("brightness", "contrast"):
        assert TABLES[64][name] == TABLES[224][name]


@pytest.mark.parametrize("content", ["[]", '{"fog": 3}', '{"fog": {"sha256": "", "bytes": 0, "settings": []}}', "{"])
def test_a_damaged_list_of_what_was_made_is_told_in_a_sentence(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"stillpoint\.json (cannot be read|is damaged).*: delete it"):
        caption(tmp_path)
