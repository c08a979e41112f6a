import json

import pytest
import torch
from safetensors.torch import save_file

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import generator
from stillpoint.core.config.merge import merge
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import loader, loaders
from stillpoint.core.data.datasets import load, prepare
from stillpoint.core.data.pairs import PairLoader, PairSet, line_mask, undersampled
from stillpoint.core.data.shifts import roll


def pictures(count: int, size: int = 12) -> torch.Tensor:
    return torch.rand(count, 1, size, size, generator=generator("pictures", count, size))


def pair_set(count: int = 7) -> PairSet:
    inputs = pictures(count)
    return PairSet(inputs, inputs * 2 + 1, "pairs", "digest")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "fastmri"
    folder.mkdir()
    for part, count in (("train", 6), ("test", 3)):
        save_file({"input": pictures(count), "target": pictures(count) + 1}, folder / f"{part}.safetensors")
    return tmp_path


def settings(*pairs: str) -> RunConfig:
    return merge(RunConfig, [], ["DATA.NAME", "fastmri", "TRAIN.LOSS", "mse", "TRAIN.BATCH_SIZE", "4", *pairs])


@pytest.mark.parametrize("per", ["image", "batch"])
def test_input_and_target_move_alike(root, per):
    config = settings("AUGMENT.ROLL", "5", "AUGMENT.ROLL_PER", per, "AUGMENT.FLIP", "0.5", "DATA.IMAGE_SIZE", "12")
    made = loader(config, "train", root)
    made.image_set = PairSet(made.image_set.inputs, made.image_set.inputs * 2 + 1, "", "")
    batches = list(made.epoch(0))
    for batch in batches:
        assert torch.equal(batch.labels, batch.images * 2 + 1)
    images, indices = (torch.cat([getattr(b, name) for b in batches]) for name in ("images", "indices"))
    assert not torch.equal(images, made.image_set.inputs[indices])
    assert sorted(indices.tolist()) == list(range(6))


def test_the_middle_is_cut_out():
    (batch,) = PairLoader(pair_set(), 10, size=8).epoch(0)
    assert torch.equal(batch.images, pair_set().inputs[:, :, 2:10, 2:10])
    with pytest.raises(UserError, match="IMAGE_SIZE 13"):
        PairLoader(pair_set(), 10, size=13)


def test_without_a_size_the_networks_own_is_cut_out_and_too_small_a_file_named(root):
    with pytest.raises(UserError, match=r"IMAGE_SIZE 320: images of .* have 12x12"):
        loader(settings(), "train", root)


def test_an_epoch_goes_on_from_any_step_and_is_shared_by_processes(root):
    config = settings("AUGMENT.ROLL", "5", "DATA.IMAGE_SIZE", "12")
    whole = list(loader(config, "train", root).epoch(1))
    rest = list(loader(config, "train", root).epoch(1, 1))
    assert torch.equal(whole[1].images, rest[0].images) and torch.equal(whole[1].labels, rest[0].labels)
    parts = [next(iter(loader(config, "train", root, rank=r, world_size=2).epoch(1))) for r in range(2)]
    assert torch.equal(torch.cat([p.images for p in parts]), whole[0].images)


def test_files_are_described_once_and_read_again_when_they_change(root):
    marker = prepare("fastmri", root)
    about = json.loads(marker.read_text())
    assert about["images"] == {"train": 6, "test": 3} and about["title"] == "fastMRI single-coil knee (12x12)"
    assert torch.equal(load("fastmri", root, "test", val_size=0).labels, pictures(3) + 1)
    before = load("fastmri", root, "train", val_size=0)
    assert before.digest == about["digests"]["train"]
    save_file({"input": pictures(5), "target": pictures(5) / 2}, root / "fastmri" / "train.safetensors")
    after = load("fastmri", root, "train", val_size=0)
    assert len(after) == 5 and after.digest != before.digest


def test_validation_pairs_are_held_out_of_training(root):
    train, val = (load("fastmri", root, part, val_size=2) for part in ("train", "val"))
    assert len(train) == 4 and len(val) == 2 and train.digest != val.digest
    both = torch.cat([train.inputs, val.inputs])
    assert {float(x.sum()) for x in both} == {float(x.sum()) for x in pictures(6)}
    assert len(loaders(settings("DATA.LIMIT", "2", "DATA.IMAGE_SIZE", "12"), root).test.image_set) == 2


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"input": torch.zeros(2, 1, 4, 4)}, "holds input"),
        ({"input": torch.zeros(2, 1, 4, 4), "target": torch.zeros(2, 1, 4, 5)}, "must hold tensors input and target"),
        ({"input": torch.zeros(2, 1, 4, 4), "target": torch.zeros(2, 1, 4, 4).half()}, "float16"),
    ],
)
def test_a_file_of_something_else_is_named(root, tensors, said):
    path = root / "fastmri" / "test.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError, match=said):
        load("fastmri", root, "test", val_size=0)


def test_missing_and_truncated_files_are_said(root, tmp_path):
    with pytest.raises(UserError, match=r"put train.safetensors and test.safetensors into .*lodopab"):
        load("lodopab", root, "train", val_size=0)
    path = root / "fastmri" / "train.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="truncated"):
        load("fastmri", root, "train", val_size=0)


def test_losses_and_changes_that_make_no_sense_for_pairs_are_refused(root):
    with pytest.raises(UserError, match=r"set TRAIN\.LOSS mse"):
        loader(settings("TRAIN.LOSS", "nll"), "train", root)
    for key, value in (("AUGMENT.CROP_PADDING", "2"), ("AUGMENT.ERASE", "2")):
        with pytest.raises(UserError, match="AUGMENT"):
            loader(settings(key, value, "DATA.IMAGE_SIZE", "12"), "train", root)
    with pytest.raises(UserError, match="digits has classes"):
        loader(settings("DATA.NAME", "digits"), "train", root)


def test_a_mask_keeps_the_middle_and_the_expected_number():
    masks = torch.stack([line_mask(320, 4, 0.08, "test", k) for k in range(200)])
    assert masks[:, 147:173].all() and masks[:, 147:173].shape[1] == round(320 * 0.08)
    # 54 of 294 columns by chance: standard deviation of the mean of 200 masks below 0.5 columns
    assert abs(masks.sum(1).double().mean() - 80) < 2
    assert torch.equal(masks[3], line_mask(320, 4, 0.08, "test", 3)) and not torch.equal(masks[3], masks[4])
    with pytest.raises(ValueError, match="acceleration 8"):
        line_mask(32, 8, 0.2, 0)


def test_measuring_everything_gives_the_image_back():
    image = pictures(1, 16)[0, 0].double()
    kspace = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image), norm="ortho"))
    found, target = undersampled(kspace, image, torch.ones(16, dtype=torch.bool))
    torch.testing.assert_close(found, target, atol=1e-5, rtol=1e-5)
    assert abs(float(found.mean())) < 1e-6 and abs(float(found.std()) - 1) < 1e-6
    less, _ = undersampled(kspace, image[2:14, 2:14], line_mask(16, 4, 0.1, 0))
    assert less.shape == (12, 12)


def test_digit_pairs_need_no_file_and_are_always_the_same(tmp_path):
    first = load("digits_undersampled", tmp_path / "a", "test", val_size=0)
    again = load("digits_undersampled", tmp_path / "b", "test", val_size=0)
    assert torch.equal(first.inputs, again.inputs) and first.digest == again.digest
    digits = load("digits", tmp_path / "a", "test", val_size=0)
    assert len(first) == len(digits)
    # a target is the digit up to a scale and an offset
    low, high = (float(f(first.labels[0])) for f in (torch.min, torch.max))
    torch.testing.assert_close((first.labels[0] - low) / (high - low), digits.images[0] / digits.images[0].max())
    assert (first.inputs - first.labels).abs().mean() > 0.1


def test_rolling_a_batch_moves_both_halves_by_the_same_pixels(root):
    config = settings("AUGMENT.ROLL", "3", "AUGMENT.ROLL_PER", "batch", "DATA.IMAGE_SIZE", "12")
    plain = {
        int(i): x
        for b in loader(settings("DATA.IMAGE_SIZE", "12"), "train", root).epoch(0)
        for i, x in zip(b.indices, b.labels, strict=True)
    }
    batch = next(iter(loader(config, "train", root).epoch(0)))
    there = torch.stack([plain[int(i)] for i in batch.indices])
    matches = [(r, c) for r in range(-3, 3) for c in range(-3, 3) if torch.equal(roll(there, (r, c)), batch.labels)]
    assert len(matches) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: (x, x), "nothing to reconstruct: every target is its input"),
        (lambda x: (x, x * 0 + 3), "nothing to reconstruct: all targets are one value"),
        (lambda x: (x, torch.where(x > 0.999, torch.nan, x + 1)), "numbers that are not finite in pairs 64 to 69"),
        (lambda x: (torch.where(x > 0.999, torch.inf, x), x + 1), "numbers that are not finite in pairs 64 to 69"),
    ],
)
def test_pairs_that_teach_nothing_are_refused(root, change, said):
    given = pictures(70).clamp(max=0.99)
    given[66, 0, 3, 3] = 1
    inputs, targets = change(given)
    for part in ("train", "test"):
        save_file({"input": inputs.clone(), "target": targets.clone()}, root / "fastmri" / f"{part}.safetensors")
    with pytest.raises(UserError, match=said):
        prepare("fastmri", root)
    with pytest.raises(UserError, match=said):
        load("fastmri", root, "test")


@pytest.mark.parametrize("content", ["[]", "3", '{"version": 2, "sources": 3, "digests": {"train": ""}}', "{"])
def test_a_damaged_marker_is_no_obstacle(root, content):
    marker = prepare("fastmri", root)
    whole = marker.read_text()
    marker.write_text(content)
    assert prepare("fastmri", root).read_text() == whole
