"""Data that only look right: what has the names and the shapes of a data set and is another one."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import merge
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data import cifar, stored
from stillpoint.core.data.datasets import content_digest, load, prepare
from stillpoint.core.data.judging import set_digest
from stillpoint.core.data.sources import digits, fashion_mnist
from stillpoint.core.evaluation.run import evaluate_run
from stillpoint.core.runs.layout import Run
from stillpoint.core.training.train import train
from tests.core.data.conftest import idx, load_images


def write_fashion(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The first images for training, the last four for testing, as four unpacked files."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", slice(0, -4)), ("t10k", slice(-4, None))):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images[rows]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels[rows]))


@pytest.fixture
def articles(monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Sixteen images and labels that pass for Fashion-MNIST, in their published order."""
    random = np.random.RandomState(5)
    images, labels = random.randint(0, 256, (16, 28, 28), np.uint8), random.randint(0, 10, 16).astype(np.uint8)
    for part, rows in (("train", slice(0, 12)), ("test", slice(12, 16))):
        monkeypatch.setitem(fashion_mnist.DIGESTS, part, set_digest(images[rows], labels[rows]))
        monkeypatch.setitem(fashion_mnist.FIRST_LABELS, part, labels[rows][:10].tolist())
    return images, labels


def test_fashion_mnist_is_judged_by_its_images_and_another_order_is_named(articles, tmp_path: Path) -> None:
    images, labels = articles
    write_fashion(tmp_path, images, labels)
    assert "order" not in json.loads(prepare("fashion_mnist", tmp_path).read_text())
    assert load("fashion_mnist", tmp_path, val_size=3).order == ""
    mixed = np.concatenate([np.random.RandomState(1).permutation(12), 12 + np.random.RandomState(1).permutation(4)])
    write_fashion(tmp_path, images[mixed], labels[mixed])
    told = json.loads(prepare("fashion_mnist", tmp_path).read_text())
    assert told["order"] == "another than the published one"
    for split in ("train", "val", "test"):
        assert load("fashion_mnist", tmp_path, split, val_size=3).order == told["order"]
    assert load_images("fashion_mnist", tmp_path, "test").labels.tolist() == labels[mixed][12:].tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda images, labels: (images * 0, labels),
        lambda images, labels: (images, labels * 0),
        lambda images, labels: (255 - images, labels),
        lambda images, labels: (images, np.roll(labels, 1)),
        lambda images, labels: (np.roll(images, 4, 0), np.roll(labels, 4)),  # images of one part in the other
        lambda images, labels: (np.concatenate([images[:1], images]), np.concatenate([labels[:1], labels])),
        lambda images, labels: (images[1:], labels[1:]),
    ],
)
def test_what_only_has_the_names_and_shapes_of_fashion_mnist_is_refused(articles, tmp_path: Path, change) -> None:
    write_fashion(tmp_path, *change(*articles))
    for _ in range(2):
        with pytest.raises(UserError, match=r"are not those of Fashion-MNIST \(MNIST's files have the same names"):
            prepare("fashion_mnist", tmp_path)
    assert not (tmp_path / "prepared").exists()


def test_what_an_earlier_version_accepted_is_judged_again(articles, tmp_path: Path) -> None:
    images, labels = articles
    write_fashion(tmp_path, images, labels)
    prepare("fashion_mnist", tmp_path)
    cache = stored.cache_path("fashion_mnist", tmp_path)

    def older(arrays: dict[str, np.ndarray]) -> None:
        with safe_open(cache, framework="np") as file:
            about = json.loads(file.metadata()["about"])
        digests = {
            part: content_digest(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in about["digests"]
        }
        kept = {key: value for key, value in about.items() if key not in ("version", "notes")} | {"digests": digests}
        save_file(arrays, cache, {"about": json.dumps(kept)})

    whole = load_file(cache)
    older(whole)
    shutil.rmtree(tmp_path / "FashionMNIST")
    # without its sources a decoded file is all there is: it is judged, not made again
    assert len(load_images("fashion_mnist", tmp_path, "test")) == 4
    older(whole | {"train_images": whole["train_images"] * 0})
    with pytest.raises(UserError, match="are not those of Fashion-MNIST"):
        load("fashion_mnist", tmp_path, "test")


@pytest.mark.parametrize(
    "about",
    [
        "[]",
        "3",
        "{",
        json.dumps({"sources": None, "version": 2}),
        json.dumps(
            {"title": "", "classes": [], "images": 3, "digests": [], "sources": None, "version": 2, "notes": {}}
        ),
    ],
)
def test_a_decoded_file_that_says_something_else_is_made_again(fashion, about: str) -> None:
    root = fashion[0]
    cache = stored.cache_path("fashion_mnist", root)
    cache.parent.mkdir()
    save_file({"train_images": np.zeros(3, np.uint8)}, cache, {"about": about})
    assert len(load_images("fashion_mnist", root, "test")) == 4


def test_digits_are_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "enlarge_digits", lambda images: np.zeros((len(images), 1, 32, 32), np.uint8))
    with pytest.raises(UserError, match="scikit-learn's digits differ from the expected ones"):
        load("digits", tmp_path)


def test_a_copy_of_cifar_as_pictures_is_judged_by_what_it_can_be(cifar_pictures: Path) -> None:
    folder = cifar_pictures / "cifar10"
    first = (folder / "train" / "cat" / "0000.jpg").read_bytes()
    # other programs' own folders and files move no label
    digest_before = load("cifar10", cifar_pictures, "train", val_size=0).digest
    for place in ("train/.ipynb_checkpoints", "train/__MACOSX", "test/.git", "train/cat/.ipynb_checkpoints"):
        (folder / place).mkdir()
        (folder / place / "0000.jpg").write_bytes(first)
    (folder / "train" / "zebra").mkdir()
    (folder / "train" / "cat" / "._0000.jpg").write_bytes(b"of another program")
    assert load("cifar10", cifar_pictures, "train", val_size=0).digest == digest_before
    (folder / "train" / "zebra" / "0.jpg").write_bytes(first)
    with pytest.raises(UserError, match="has the class 'zebra', which cifar10 does not have"):
        prepare("cifar10", cifar_pictures)
    (folder / "train" / "zebra" / "0.jpg").unlink()
    with monkeypatched_counts(train=20, test=10):
        (folder / "train" / "cat" / "0002.jpg").write_bytes(first[:-2] + b"\xff\xd9")
        with pytest.raises(UserError, match="more than the 20 train images of cifar10"):
            prepare("cifar10", cifar_pictures)
        (folder / "train" / "dog" / "0001.jpg").unlink()
        with pytest.raises(UserError, match="has 3 train images of cat, but cifar10 has 2"):
            prepare("cifar10", cifar_pictures)
        (folder / "train" / "cat" / "0002.jpg").unlink()
    for path in folder.glob("test/[!.]*/0000.jpg"):
        path.write_bytes((folder / "train" / path.parent.name / "0000.jpg").read_bytes())
    with pytest.raises(UserError, match="is not CIFAR-10: 10 of 10 test images are among the training images too"):
        prepare("cifar10", cifar_pictures)
    for path in folder.glob("*/*/*.jpg"):
        Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(UserError, match="is not CIFAR-10: of 19 training images only 1 differ"):
        prepare("cifar10", cifar_pictures)


@contextmanager
def monkeypatched_counts(**counts: int) -> Iterator[None]:
    before = dict(cifar.COUNTS)
    cifar.COUNTS.update(counts)
    try:
        yield
    finally:
        cifar.COUNTS.update(before)


def test_a_copy_without_loss_says_that_it_is_a_copy(cifar_pictures: Path) -> None:
    for path in sorted((cifar_pictures / "cifar10").glob("*/*/*.jpg")):
        with Image.open(path) as image:
            image.load()
        path.unlink()
        image.save(path.with_suffix(".png"))
    assert load("cifar10", cifar_pictures, val_size=0).title.startswith("CIFAR-10 (a copy as pictures, 20 of 50,000")


def test_cifar100_in_folders_has_its_hundred_classes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for k in range(100):
            folder = tmp_path / "cifar100" / part / f"c{k:03}"
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32), (k, 0, 0)).save(folder / "0.png")
    with pytest.raises(UserError, match=r"the class 'c0\d\d', which cifar100 does not have"):
        prepare("cifar100", tmp_path)


def test_cifar10_c_is_judged_by_what_it_can_be(corrupted) -> None:
    root, images = corrupted
    folder = root / "CIFAR-10-C"
    np.save(folder / "labels.npy", np.arange(20, dtype=np.uint8) % 10)
    with pytest.raises(UserError, match="does not give every severity the same classes"):
        load("cifar10_c", root, "gaussian_noise/1")
    np.save(folder / "labels.npy", np.tile(np.arange(4, dtype=np.uint8), 5))
    images[12:16] = 0
    np.save(folder / "gaussian_noise.npy", images)
    with pytest.raises(UserError, match="all images of severity 4 are the same"):
        prepare("cifar10_c", root)
    with pytest.raises(UserError, match="all images of severity 4 are the same"):
        load("cifar10_c", root, "gaussian_noise/4")
    assert load("cifar10_c", root, "gaussian_noise/3") is not None
    for wrong in (np.zeros((0, 32, 32, 3), np.uint8), np.uint8(3), np.zeros((20, 32, 32, 4), np.uint8)):
        np.save(folder / "gaussian_noise.npy", wrong)
        with pytest.raises(UserError, match=r"not uint8 \(50000, 32, 32, 3\)"):
            load("cifar10_c", root, "gaussian_noise/1")


def test_provenance_names_another_order(articles, tmp_path: Path) -> None:
    images, labels = articles
    mixed = np.concatenate([np.arange(12)[::-1], np.arange(12, 16)])
    orders = {}
    for name, order in (("published", np.arange(16)), ("mixed", mixed)):
        write_fashion(tmp_path / name, images[order], labels[order])
        config = merge(RunConfig, [], ["PIPELINE", "tiny", "MODEL.NAME", "net", "DATA.NAME", "fashion_mnist", *SHORT])
        run = Run("tiny", "fashion_mnist", "net", 0, tmp_path / name)
        places: dict[str, Any] = {"build": linear, "data_root": tmp_path / name, "device": "cpu"}
        train(config, run, **places)
        metrics = evaluate_run(run, config=config, **places)
        found = json.loads(run.training.read_text()), metrics["provenance"]
        orders[name] = [where.get("data_order", "") for where in found]
    assert orders == {"published": ["", ""], "mixed": ["another than the published one"] * 2}


SHORT = ["TRAIN.EPOCHS", "1", "TRAIN.BATCH_SIZE", "4", "TRAIN.LR", "0.01", "EVALUATE.METRICS", "[accuracy]"]


def linear(config: RunConfig) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
