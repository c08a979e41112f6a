import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.augment import build_augment, resized_crop_boxes
from stillpoint.core.data.datasets import load, prepare
from stillpoint.core.data.sets import FolderSet
from stillpoint.core.data.streaming import StreamLoader, centre_crop, resize_short_side, resized_crop_box

SMALL = {"size": 24, "resize": 28}


def folder_set(root: Path, split: str = "train", **options) -> FolderSet:
    found = load("imagenet", root, split, **options)
    assert isinstance(found, FolderSet)
    return found


def raw(loader: StreamLoader, epoch: int = 0, start: int = 0) -> dict[int, Tensor]:
    return {
        int(i): image
        for batch in loader.epoch(epoch, start)
        for i, image in zip(batch.indices, batch.images, strict=True)
    }


def test_classes_are_numbered_by_their_identifiers_whatever_folders_there_are(photographs: Path) -> None:
    train = folder_set(photographs)
    assert len(train) == 12 and train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(train.classes) == 1000 and train.title == "ImageNet (3 of 1000 classes)"
    (photographs / "imagenet/train/n01443537").rename(photographs / "imagenet/train/n03445777")
    assert folder_set(photographs).labels.tolist() == [0] * 4 + [2] * 4 + [574] * 4
    assert folder_set(photographs).digest != train.digest
    with pytest.raises(UserError, match=r"classes that are not in .*train: n01443537"):
        load("imagenet", photographs, "val")
    (photographs / "imagenet/train/n03445777").rename(photographs / "imagenet/train/cat")
    with pytest.raises(UserError, match=r"image folders that are not classes of ImageNet: cat"):
        folder_set(photographs)


@pytest.mark.parametrize("part", ["train", "val"])
def test_hidden_and_empty_folders_are_no_classes(photographs: Path, part: str) -> None:
    found = folder_set(photographs, part)
    folder = photographs / "imagenet" / part
    for name in (".ipynb_checkpoints", "__MACOSX", ".git/objects", "n01440764/.ipynb_checkpoints"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.JPEG").write_bytes((folder / "n01440764" / "0.JPEG").read_bytes())
    (folder / "n01440764" / "._0.JPEG").write_bytes(b"of another program")
    (folder / "n01491361").mkdir()
    (folder / "notes" / "drafts").mkdir(parents=True)
    again = folder_set(photographs, part)
    assert again.digest == found.digest and torch.equal(again.labels, found.labels)
    assert json.loads(prepare("imagenet", photographs).read_text())["classes"] == 3


def test_prepare_counts_the_photographs(photographs: Path) -> None:
    told = json.loads(prepare("imagenet", photographs).read_text())
    assert told["images"] == {"train": 12, "val": 12} and told["classes"] == 3
    assert told["title"] == "ImageNet (3 of 1000 classes)" and "not 50000 of 1000" in told["incomplete"]
    assert "its photographs are small: their median shorter side is" in told["incomplete"]
    for path in (photographs / "imagenet" / "val").glob("*/*.JPEG"):
        Image.new("RGB", (500, 375)).save(path)
    assert "small" not in json.loads(prepare("imagenet", photographs).read_text())["incomplete"]


def test_held_out_images_are_the_first_of_each_class(photographs: Path) -> None:
    val, train = (folder_set(photographs, split, val_size=6) for split in ("val", "train"))
    assert [Path(p).stem for p in val.paths] == ["0", "1"] * 3 and [Path(p).stem for p in train.paths] == ["2", "3"] * 3
    assert folder_set(photographs, "test", val_size=6).paths[0].startswith(str(photographs / "imagenet/val"))
    with pytest.raises(UserError, match="fewer than one for each of 3 classes"):
        load("imagenet", photographs, "val", val_size=2)


def test_resizing_and_cropping_have_torchvisions_sizes_and_offsets() -> None:
    image = Image.fromarray(np.arange(45 * 61 * 3, dtype=np.uint8).reshape(45, 61, 3))
    assert resize_short_side(image, 30).size == (40, 30)  # 30 * 61 / 45 = 40.7, floored
    assert resize_short_side(image.rotate(90, expand=True), 30).size == (30, 40)
    cut = np.asarray(centre_crop(image, 40))  # margins 2.5 and 10.5 are rounded to 2 and 10
    assert np.array_equal(cut, np.asarray(image)[2:42, 10:50])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("crop", ["centre", "random_resized"])
def test_an_image_depends_on_seed_epoch_and_number_alone(photographs: Path, crop, workers: int) -> None:
    files = folder_set(photographs)
    loader = StreamLoader(files, 5, crop=crop, workers=workers, shuffle=True, mean=(0.0,), std=(1.0,), **SMALL)
    other = StreamLoader(files, 3, crop=crop, mean=(0.0,), std=(1.0,), **SMALL)
    first = raw(loader)
    assert first[0].shape == (3, 24, 24) and sorted(first) == list(range(12))
    for again in (raw(loader), raw(other)):
        assert all(torch.equal(first[i], again[i]) for i in range(12))
    changed = raw(loader, epoch=1)
    assert all(torch.equal(first[i], changed[i]) for i in range(12)) == (crop == "centre")


def test_streamed_pixels_are_the_photographs(photographs: Path) -> None:
    files = folder_set(photographs, "val")
    images = raw(StreamLoader(files, 4, mean=(0.0,), std=(1.0,), **SMALL))
    for i, path in enumerate(files.paths):
        picture = centre_crop(resize_short_side(Image.open(path).convert("RGB"), 28), 24)
        expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        torch.testing.assert_close(images[i], expected)


def test_processes_resume_and_augmentation_as_in_memory(photographs: Path) -> None:
    augment = build_augment([{"name": "roll"}, {"name": "flip"}])
    options = {"seed": 1, "shuffle": True, "augment": augment, **SMALL}
    alone = list(StreamLoader(folder_set(photographs), 5, **options).epoch(1))
    ranks = [StreamLoader(folder_set(photographs), 5, rank=r, world_size=2, **options) for r in (0, 1)]
    for one, parts in zip(alone, zip(*(loader.epoch(1) for loader in ranks), strict=True), strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), one.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), one.labels)
    (last,) = StreamLoader(folder_set(photographs), 5, **options).epoch(1, start_step=2)
    assert last.step == 2 and torch.equal(last.images, alone[2].images)


def test_a_corrupt_photograph_is_named_or_skipped_and_counted(photographs: Path) -> None:
    broken = photographs / "imagenet" / "train" / "n01440764" / "1.JPEG"
    whole = list(StreamLoader(folder_set(photographs), 5, augment=build_augment([{"name": "roll"}]), **SMALL).epoch(0))
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(UserError, match=f"{broken} cannot be decoded"):
        list(StreamLoader(folder_set(photographs), 5, **SMALL).epoch(0))
    loader = StreamLoader(
        folder_set(photographs), 5, augment=build_augment([{"name": "roll"}]), skip_corrupt=True, **SMALL
    )
    batches = list(loader.epoch(0))
    assert [len(batch.labels) for batch in batches] == [4, 5, 2] and batches[0].indices.tolist() == [0, 2, 3, 4]
    assert len(loader.skipped) == 1 and str(broken) in next(iter(loader.skipped))
    # the others are as they would have been
    assert torch.equal(batches[0].images, whole[0].images[[0, 2, 3, 4]])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generator_is_left_alone(photographs: Path, workers: int) -> None:
    before = torch.get_rng_state()
    list(
        StreamLoader(folder_set(photographs), 5, crop="random_resized", shuffle=True, workers=workers, **SMALL).epoch(0)
    )
    assert torch.equal(before, torch.get_rng_state())


def test_a_scale_of_one_keeps_nearly_all_of_a_square_photograph(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet" / "train" / "n01440764"
    folder.mkdir(parents=True)
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, :20] = 255
    for k in range(20):
        Image.fromarray(pixels).save(folder / f"{k}.png")
    options = {"crop": "random_resized", "mean": (0.0,), "std": (1.0,), **SMALL}
    for scale, spread in (((1.0, 1.0), False), ((0.08, 0.2), True)):
        images = torch.stack(list(raw(StreamLoader(folder_set(tmp_path), 20, scale=scale, **options)).values()))
        white = images.mean((1, 2, 3))
        assert bool((white - 0.5).abs().max() > 0.25) == spread


def test_an_unknown_crop_is_refused(photographs: Path) -> None:
    with pytest.raises(ValueError, match="crop must be one of centre, random_resized, random_scaled, got 'corner'"):
        StreamLoader(folder_set(photographs), 5, crop="corner")  # type: ignore[arg-type]


def test_a_window_larger_than_the_resized_picture_is_refused(photographs: Path) -> None:
    with pytest.raises(ValueError, match="size must be at most resize, 28, got 29"):
        StreamLoader(folder_set(photographs), 5, size=29, resize=28)
    # which a random crop is resized from
    StreamLoader(folder_set(photographs), 5, size=29, resize=28, crop="random_resized")


@pytest.mark.parametrize("size", [(375, 500), (40, 400), (400, 40), (1, 1), (224, 224)])
def test_one_box_is_that_of_a_batch_of_one(size: tuple[int, int]) -> None:
    for seed in range(60):
        draws = [torch.Generator().manual_seed(seed) for _ in range(2)]
        scale = (0.08, 1.0) if seed % 2 else (0.9, 1.0)
        wanted = resized_crop_boxes(1, *size, draws[0], scale)[0].tolist()
        assert list(resized_crop_box(*size, draws[1], scale)) == wanted
