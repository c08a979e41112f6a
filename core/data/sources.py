"""From the published files of each small data set to uint8 arrays (N, C, H, W) and int64 labels."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np

from stillpoint.core.base.errors import UserError, nearest
from stillpoint.core.base.files import digest
from stillpoint.core.config.catalogue import info, missing
from stillpoint.core.data.archives import archive_files
from stillpoint.core.data.corruptions import check
from stillpoint.core.data.corruptions.prepare import caption
from stillpoint.core.data.formats import (
    IMAGE_SUFFIXES,
    decode_image,
    jpeg_quality,
    read_idx,
    read_npy,
    read_pickled_batch,
)

Arrays = tuple[np.ndarray, np.ndarray]
Progress = Callable[[str, int, int], None]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_COUNTS = {"train": 60_000, "test": 10_000}
FASHION_CLASSES = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
#: MD5 digests that Krizhevsky's page and torchvision publish for CIFAR's archives and the files in them
CIFAR_MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
_CIFAR_FILES = {
    "cifar10": (
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
        [f"data_batch_{k}" for k in range(1, 6)],
        "test_batch",
    ),
    "cifar100": ("cifar-100-python.tar.gz", "cifar-100-python", ["train"], "test"),
}
#: bytes of what CIFAR's archives hold: 185 MB as batches; of pictures (both parts together) and of one at most
_BATCHES = {"most": 256 << 20, "largest": 192 << 20}
_PICTURES, _PICTURE_MEAN, _PICTURE = 60_000, 8 << 10, 64 << 10


@dataclass(frozen=True, slots=True)
class Decoded:
    """A whole data set: what it calls itself in tables, its class names, and (images, labels) of "train" and "test"."""

    title: str
    classes: tuple[str, ...]
    parts: dict[str, Arrays]


def source(name: str, root: Path) -> list[Path]:
    """The files or folders under `root` that `name` would be decoded from, an original before any copy; [] if none."""
    if name == "fashion_mnist":
        raw = root / "FashionMNIST" / "raw"
        stems = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        found = [next((p for p in (raw / stem, raw / f"{stem}.gz") if p.is_file()), None) for stem in stems]
        return [path for path in found if path]
    if name in _CIFAR_FILES:
        archive, folder, train, test = _CIFAR_FILES[name]
        if (root / folder).is_dir():
            return [root / folder / part for part in (*train, test) if (root / folder / part).is_file()]
        if (root / archive).is_file():
            return [root / archive]
        if (root / name / "train").is_dir():
            return [root / name]
        return [path for path in sorted(root.glob(f"{name}-jpeg.tar*")) if path.is_file()][:1]
    return []


def signature(name: str, root: Path) -> list[list[Any]] | None:
    """What would change if the sources did: path, size and time of each file (of each folder, for images in folders).

    None when the sources are absent; an editing in place of a picture in a folder of pictures goes unseen.
    """
    if name == "digits":
        return [["scikit-learn load_digits"]]
    paths = source(name, root)
    folders = [sub for path in paths if path.is_dir() for sub in sorted(path.glob("*/*")) if sub.is_dir()]
    stats = [(path, path.stat()) for path in (*paths, *folders)]
    return [[str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns] for path, stat in stats] or None


def decode(name: str, root: Path, progress: Progress) -> Decoded:
    """Reads the data set `name`; raises `UserError` when its files are missing, damaged, or not the published ones."""
    if name == "digits":
        return _digits()
    paths = source(name, root)
    if not paths:
        raise missing(name, root)
    if name == "fashion_mnist":
        return _fashion_mnist(root, paths)
    if paths[0].is_dir():
        entries = _folder_entries(paths[0])
        total = sum(1 for part in ("train", "test") for _ in (paths[0] / part).glob("*/*"))
        return _from_pictures(name, paths[0], entries, progress, total)
    if paths[0].name.startswith(f"{name}-jpeg.tar"):
        return _from_pictures(
            name, paths[0], archive_files(paths[0], most=_PICTURES * _PICTURE_MEAN, largest=_PICTURE), progress, 0
        )
    return _from_batches(name, root, progress)


def enlarge_digits(digits: np.ndarray) -> np.ndarray:
    """(N, 8, 8) integers 0..16 -> (N, 1, 32, 32) uint8: three times larger, in the middle of a black canvas.

    The enlargement is bilinear (PyTorch's align_corners=False): on each axis a new pixel is 1/3 and 2/3 of its two
    neighbours, or all of one; at the border the edge is repeated. All in integers, with halves rounded up, so that
    every machine makes the same bytes.
    """
    weights = np.zeros((24, 8), np.int64)  # in thirds
    for new in range(24):
        old, phase = divmod(new, 3)
        neighbour = min(max(old + phase - 1, 0), 7)
        weights[new, old] += 3 if phase == 1 else 2
        weights[new, neighbour] += 0 if phase == 1 else 1
    large = weights @ digits.astype(np.int64) @ weights.T  # (N, 24, 24), 9 * 16 is white
    pixels = (2 * 255 * large + 9 * 16) // (2 * 9 * 16)
    return np.pad(pixels.astype(np.uint8), ((0, 0), (4, 4), (4, 4)))[:, None]


def _digits() -> Decoded:
    from sklearn.datasets import load_digits  # its import takes a second: only when the set is first decoded

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    # shuffled, then gathered by class: every fifth image is then a sample with the same share of each class
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    is_test = np.zeros(len(labels), bool)
    is_test[by_class[::5]] = True
    images = enlarge_digits(bunch.images)
    parts = {"train": (images[~is_test], labels[~is_test]), "test": (images[is_test], labels[is_test])}
    return Decoded(info("digits").title, tuple("0123456789"), parts)


def _fashion_mnist(root: Path, paths: list[Path]) -> Decoded:
    if len(paths) < 4:
        there = ", ".join(path.name for path in paths)
        raise missing("fashion_mnist", root, f" (only {there} found)")
    parts = {}
    for part, (images_path, labels_path) in (("train", paths[:2]), ("test", paths[2:])):
        count = FASHION_COUNTS[part]
        images, labels = read_idx(images_path, count * 28 * 28), read_idx(labels_path, count)
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) > 9:
            raise UserError(f"{images_path.name} and {labels_path.name} do not belong together: fetch both again")
        parts[part] = images[:, None], labels.astype(np.int64)
    return Decoded(info("fashion_mnist").title, FASHION_CLASSES, parts)


def _from_batches(name: str, root: Path, progress: Progress) -> Decoded:
    archive, folder, train, test = _CIFAR_FILES[name]
    wanted = [*train, test, *(["meta"] if name == "cifar100" else [])]
    contents: dict[str, bytes] = {}
    if (root / folder).is_dir():
        where = root / folder
        contents = {file: (where / file).read_bytes() for file in wanted if (where / file).is_file()}
    else:
        where = root / archive
        if digest(where, "md5") != CIFAR_MD5[archive]:
            raise UserError(f"{where} has the wrong digest: it is truncated or not the published file; fetch it again")
        contents = {
            Path(file).name: content for file, content in archive_files(where, **_BATCHES) if Path(file).name in wanted
        }
    absent = [file for file in wanted if file not in contents]
    if absent:
        raise missing(name, root, f" as a whole ({', '.join(absent)} not found in {where})")
    batches = {}
    for done, file in enumerate(wanted):
        progress(f"reading {file}", done, len(wanted))
        if md5(contents[file], usedforsecurity=False).hexdigest() != CIFAR_MD5[file]:
            raise UserError(
                f"{where}: {file} has the wrong digest: it is truncated or not the published file; fetch it again"
            )
        batches[file] = read_pickled_batch(contents[file], f"{where}: {file}")
    label_key = b"labels" if name == "cifar10" else b"fine_labels"
    classes = CIFAR10_CLASSES
    if name == "cifar100":
        classes = tuple(label.decode() for label in batches["meta"][b"fine_label_names"])
    parts = {}
    for part, files in (("train", train), ("test", [test])):
        images = np.concatenate([np.asarray(batches[file][b"data"], np.uint8) for file in files])
        labels = np.concatenate([np.asarray(batches[file][label_key], np.int64) for file in files])
        parts[part] = images.reshape(-1, 3, 32, 32), labels
    return Decoded(info(name).title, classes, parts)


def _folder_entries(folder: Path) -> Iterator[tuple[str, Path]]:
    for part in ("train", "test"):
        for path in (folder / part).glob("*/*"):
            yield f"{part}/{path.parent.name}/{path.name}", path


def _from_pictures(
    name: str, where: Path, entries: Iterable[tuple[str, Path | bytes]], progress: Progress, total: int
) -> Decoded:
    """Pictures called [.../]<train|test>/<class>/<file>, ordered by class and file name, classes by the alphabet."""
    entry = info(name)
    found: dict[str, list[tuple[str, str, np.ndarray]]] = {"train": [], "test": []}
    kinds: Counter[str] = Counter()
    for done, (path, content) in enumerate(entries):
        part, label, file = ["", "", *path.split("/")][-3:]
        if part not in found or not file.lower().endswith(IMAGE_SUFFIXES) or file.startswith("."):
            continue
        if done % 1000 == 0:
            progress("decoding images", done, total)
        data = content if isinstance(content, bytes) else content.read_bytes()
        mode = "RGB" if entry.channels == 3 else "L"
        picture = decode_image(data, f"{where}: {path}", mode, size=(entry.size, entry.size))
        if data.startswith(b"\xff\xd8"):  # a file per class tells how all were written
            seen = kinds.total() and len(found[part]) % 500
            if not seen:
                quality = jpeg_quality(data)
                kinds[f"JPEG q{quality}" if quality else "JPEG"] += 1
        found[part].append((label, file, np.asarray(picture).reshape(entry.size, entry.size, -1)))
    classes = sorted({label for label, _, _ in found["train"]})
    for part in ("train", "test"):
        if not found[part]:
            raise UserError(f"{where} holds no images under {part}/<class>/: {entry.files.format(root=where.parent)}")
    if len(classes) != entry.num_classes or (name == "cifar10" and classes != list(CIFAR10_CLASSES)):
        raise UserError(f"{where} has {len(classes)} class folders ({', '.join(classes[:12])}), which are not {name}'s")
    strange = {label for label, _, _ in found["test"]} - set(classes)
    if strange:
        raise UserError(
            f"{where} has test classes that are not among its training classes: {', '.join(sorted(strange))}"
        )
    parts = {}
    for part, items in found.items():
        items.sort(key=lambda item: item[:2])
        images = np.stack([pixels for _, _, pixels in items]).transpose(0, 3, 1, 2)
        parts[part] = np.ascontiguousarray(images), np.array([classes.index(label) for label, _, _ in items], np.int64)
    title = f"{entry.title} ({', '.join(sorted(kinds))})" if kinds else entry.title
    return Decoded(title, tuple(classes), parts)


def _corruption(root: Path, file: str) -> np.ndarray:
    path = root / "CIFAR-10-C" / file
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.npy") if p.stem != "labels")
        raise missing("cifar10_c", root, f" ({file} not found{nearest(path.stem, there)})")
    return read_npy(path)


def cifar10_c_rows(root: Path, corruption: str) -> tuple[np.ndarray, np.ndarray]:
    """(images (5 N, 32, 32, 3), labels) of a corruption as they lie in its file, checked and mapped, not read."""
    images, labels = _corruption(root, f"{corruption}.npy"), _corruption(root, "labels.npy")
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(images) != len(labels) or len(images) % 5:
        raise UserError(
            f"{root / 'CIFAR-10-C' / corruption}.npy holds {images.dtype} {images.shape}, not uint8 (50000, 32, 32, 3) "
            f"with as many labels ({len(labels)})"
        )
    if (
        labels.dtype.kind not in "ui"
        or labels.ndim != 1
        or not 0 <= labels.min(initial=0) <= labels.max(initial=0) < 10
    ):
        raise UserError(
            f"{root / 'CIFAR-10-C'}/labels.npy does not hold numbers of classes from 0 to 9: fetch it again"
        )
    return images, labels


def read_cifar10_c(root: Path, split: str) -> tuple[np.ndarray, np.ndarray, str]:
    """(images (N, 3, 32, 32), labels, title) of one "<corruption>/<severity>" of the published layout."""
    match = re.fullmatch(r"([^/]+)/(\d+)", split)
    if not match:
        raise UserError(
            f"unknown split {split!r} of cifar10_c: write <corruption>/<severity 1 to 5>, as gaussian_noise/3"
        )
    corruption, severity = match[1], int(match[2])
    check(corruption, severity)
    images, labels = cifar10_c_rows(root, corruption)
    count = len(images) // 5  # severities follow each other, each in the order of the clean test images
    rows = slice((severity - 1) * count, severity * count)
    pixels = np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))
    title = f"{info('cifar10_c').title} {corruption.replace('_', ' ')} {severity}"
    return pixels, np.asarray(labels[rows]).astype(np.int64), title


def check_cifar10_c(root: Path) -> dict[str, Any]:
    """What the folder holds, each file's shape checked; raises `UserError` if there is nothing or it is damaged."""
    names = sorted(p.stem for p in (root / "CIFAR-10-C").glob("*.npy") if p.stem != "labels")
    if not names:
        raise missing("cifar10_c", root)
    said = caption(root / "CIFAR-10-C")
    return {
        "title": info("cifar10_c").title + (f" ({said})" if said else ""),
        "classes": len(CIFAR10_CLASSES),
        "images": {name: len(cifar10_c_rows(root, name)[0]) for name in names},
        "digests": {name: digest(root / "CIFAR-10-C" / f"{name}.npy") for name in (*names, "labels")},
    }
