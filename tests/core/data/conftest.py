"""Tiny data sets in the real formats."""

import gzip
import io
import pickle
import struct
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillpoint.core.data import cifar
from stillpoint.core.data.datasets import ImageSet, load
from stillpoint.core.data.judging import set_digest
from stillpoint.core.data.sources import fashion_mnist


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">2xBB{array.ndim}I", 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def jpeg(pixels: np.ndarray, quality: int = 75) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray, np.ndarray]:
    """(root, training images (12, 28, 28), labels): gzipped training files, unpacked test files of 4 images.

    They pass for the published ones.
    """
    random = np.random.RandomState(1)
    images, labels = random.randint(0, 256, (12, 28, 28), np.uint8), random.randint(0, 10, 12).astype(np.uint8)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(images[:4]))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[:4]))
    for part, count in (("train", 12), ("test", 4)):
        monkeypatch.setitem(fashion_mnist.DIGESTS, part, set_digest(images[:count], labels[:count]))
        monkeypatch.setitem(fashion_mnist.FIRST_LABELS, part, labels[:count][:10].tolist())
    return tmp_path, images, labels


@pytest.fixture
def cifar_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray, np.ndarray]:
    """(root, images (20, 3, 32, 32), labels) as five pickled batches of 4 and a test batch, digests made to fit."""
    random = np.random.RandomState(2)
    images, labels = random.randint(0, 256, (20, 3, 32, 32), np.uint8), random.randint(0, 10, 20)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for k in range(6):
        rows = slice(4 * k, 4 * k + 4) if k < 5 else slice(0, 4)
        value = {b"data": images[rows].reshape(4, -1), b"labels": labels[rows].tolist()}
        name = f"data_batch_{k + 1}" if k < 5 else "test_batch"
        content = pickle.dumps(value, protocol=2)
        (folder / name).write_bytes(content)
        monkeypatch.setitem(cifar.CIFAR_MD5, name, md5(content).hexdigest())
    return tmp_path, images, labels


@pytest.fixture
def cifar_pictures(tmp_path: Path) -> Path:
    """A root with cifar10/{train,test}/<class>/000<k>.jpg: two and one for each class."""
    random = np.random.RandomState(3)
    for part, count in (("train", 2), ("test", 1)):
        for name in cifar.CIFAR10_CLASSES:
            folder = tmp_path / "cifar10" / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                (folder / f"000{k}.jpg").write_bytes(jpeg(random.randint(0, 256, (32, 32, 3), np.uint8)))
    return tmp_path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A root with imagenet/{train,val} of three classes: RGB, grey and CMYK photographs of several sizes."""
    random = np.random.RandomState(4)
    for part in ("train", "val"):
        for label, mode in enumerate(("RGB", "L", "CMYK")):
            folder = tmp_path / "imagenet" / part / ("n01440764", "n01443537", "n01484850")[label]
            folder.mkdir(parents=True)
            for k in range(4):
                height, width = 40 + 5 * k, 60 - 7 * k
                pixels = random.randint(0, 256, (height, width, 4), np.uint8)
                image = Image.fromarray(pixels[..., 0]) if mode == "L" else Image.fromarray(pixels[..., :3])
                image.convert(mode).save(folder / f"{k}.JPEG", "JPEG")
    return tmp_path


@pytest.fixture
def corrupted(tmp_path: Path) -> tuple[Path, np.ndarray]:
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    images = np.random.RandomState(0).randint(0, 256, (20, 32, 32, 3), np.uint8)
    np.save(folder / "gaussian_noise.npy", images)
    np.save(folder / "labels.npy", np.tile(np.arange(4, dtype=np.uint8), 5))
    return tmp_path, images


def load_images(*args, **options) -> ImageSet:
    found = load(*args, **options)
    assert isinstance(found, ImageSet)
    return found
