"""The readers that CIFAR-10 and CIFAR-100 share: pickled batches, identified by digest, and copies as image files.

A copy as image files has no known digest, since pixels depend on decoder and quality. So its title says that it is a
copy, and it is checked for class names, images per class, distinct images, and disjoint training and test images.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import md5
from pathlib import Path

import numpy as np

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest
from stillpoint.core.base.progress import OnProgress
from stillpoint.core.config.catalogue import DatasetInfo, missing
from stillpoint.core.data.archives import archive_files
from stillpoint.core.data.contract import Decoded
from stillpoint.core.data.formats import IMAGE_SUFFIXES, decode_image, jpeg_quality, read_pickled_batch
from stillpoint.core.data.judging import check_copies
from stillpoint.core.data.photographs import is_hidden
from stillpoint.core.data.stored import Stored

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(_CIFAR100.split())
# APS authors' statistics of the 45,000 training images
CIFAR10_MEAN, CIFAR10_STD = (0.49141738, 0.48219556, 0.44662726), (0.24703224, 0.24348514, 0.26158786)
COUNTS = {"train": 50_000, "test": 10_000}
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
#: most bytes of an archive of batches (185 MB) and of one batch; of an image in a copy, on average and at most
_BATCHES, _BATCH, _PICTURE_MEAN, _PICTURE = 256 << 20, 192 << 20, 8 << 10, 64 << 10


class Cifar(Stored):
    """CIFAR-10 or CIFAR-100: its archive and the folder in it, its files, the key of its labels, its classes in order.

    `names` are the file and the key of the published class names.
    """

    def __init__(
        self,
        info: DatasetInfo,
        *,
        archive: str,
        folder: str,
        train: tuple[str, ...],
        test: str,
        labels: bytes,
        classes: tuple[str, ...],
        names: tuple[str, bytes] | None = None,
    ) -> None:
        self.info, self.archive, self.folder, self.train, self.test = info, archive, folder, train, test
        self.labels, self.classes, self.names = labels, classes, names

    def sources(self, root: Path) -> list[Path]:
        name = self.info.name
        if (root / self.folder).is_dir():
            return [path for part in (*self.train, self.test) if (path := root / self.folder / part).is_file()]
        if (root / self.archive).is_file():
            return [root / self.archive]
        if (root / name / "train").is_dir():
            return [root / name]
        return [path for path in sorted(root.glob(f"{name}-jpeg.tar*")) if path.is_file()][:1]

    def decode(self, root: Path, progress: OnProgress) -> Decoded:
        paths = self.sources(root)
        if not paths:
            raise missing(self.info.name, root)
        if paths[0].is_dir():
            total = sum(1 for part in COUNTS for _ in (paths[0] / part).glob("*/*"))
            return self._from_pictures(paths[0], _entries(paths[0]), progress, total)
        if paths[0].name.startswith(f"{self.info.name}-jpeg.tar"):
            most = sum(COUNTS.values()) * _PICTURE_MEAN
            return self._from_pictures(paths[0], archive_files(paths[0], most=most, largest=_PICTURE), progress, 0)
        return self._from_batches(root, progress)

    def _from_batches(self, root: Path, progress: OnProgress) -> Decoded:
        wanted = [*self.train, self.test, *([self.names[0]] if self.names else [])]
        if (root / self.folder).is_dir():
            where = root / self.folder
            contents = {file: (where / file).read_bytes() for file in wanted if (where / file).is_file()}
        else:
            where = root / self.archive
            if digest(where, "md5") != CIFAR_MD5[self.archive]:
                raise UserError(
                    f"{where} has the wrong digest: it is truncated or not the published file; fetch it again"
                )
            packed = archive_files(where, most=_BATCHES, largest=_BATCH)
            contents = {Path(file).name: content for file, content in packed if Path(file).name in wanted}
        absent = [file for file in wanted if file not in contents]
        if absent:
            raise missing(self.info.name, root, f" as a whole ({', '.join(absent)} not found in {where})")
        batches = {}
        for done, file in enumerate(wanted):
            progress(f"reading {file}", done, len(wanted))
            if md5(contents[file], usedforsecurity=False).hexdigest() != CIFAR_MD5[file]:
                raise UserError(
                    f"{where}: {file} has the wrong digest: it is truncated or not the published file; fetch it again"
                )
            batches[file] = read_pickled_batch(contents[file], f"{where}: {file}")
        classes = self.classes
        if self.names:
            classes = tuple(label.decode() for label in batches[self.names[0]][self.names[1]])
        parts = {}
        for part, files in (("train", self.train), ("test", (self.test,))):
            images = np.concatenate([np.asarray(batches[file][b"data"], np.uint8) for file in files])
            labels = np.concatenate([np.asarray(batches[file][self.labels], np.int64) for file in files])
            parts[part] = images.reshape(-1, 3, 32, 32), labels
        return Decoded(self.info.title, classes, parts)

    def _from_pictures(
        self, where: Path, entries: Iterable[tuple[str, Path | bytes]], progress: OnProgress, total: int
    ) -> Decoded:
        """Images named [.../]<train|test>/<class>/<file>, ordered by class and file name."""
        name, entry = self.info.name, self.info
        found: dict[str, list[tuple[str, str, np.ndarray]]] = {"train": [], "test": []}
        kinds: Counter[str] = Counter()
        for done, (path, content) in enumerate(entries):
            part, label, file = ["", "", *path.split("/")][-3:]
            # skip folders and files of other programs: __MACOSX, .ipynb_checkpoints, ._0000.jpg
            hidden = any(is_hidden(step) for step in path.split("/") if step not in (".", ".."))
            if part not in found or hidden or not file.lower().endswith(IMAGE_SUFFIXES):
                continue
            if done % 1000 == 0:
                progress("decoding images", done, total)
            if label not in self.classes:
                raise UserError(f"{where}: {path} has the class {label!r}, which {name} does not have")
            if len(found[part]) >= COUNTS[part]:
                raise UserError(f"{where} has more than the {COUNTS[part]:,} {part} images of {name}")
            data = content if isinstance(content, bytes) else content.read_bytes()
            picture = decode_image(data, f"{where}: {path}", "RGB", size=(entry.size, entry.size))
            if len(found[part]) % 500 == 0:  # a sample shows how all were written
                quality = jpeg_quality(data) if data.startswith(b"\xff\xd8") else 0
                kinds["a copy as pictures" if quality == 0 else f"JPEG q{quality}" if quality else "JPEG"] += 1
            found[part].append((label, file, np.asarray(picture).reshape(entry.size, entry.size, -1)))
        self._check_classes(where, {part: Counter(label for label, _, _ in items) for part, items in found.items()})
        parts = {}
        for part, items in found.items():
            items.sort(key=lambda item: item[:2])
            images = np.stack([pixels for _, _, pixels in items]).transpose(0, 3, 1, 2)
            numbers = np.array([self.classes.index(label) for label, _, _ in items], np.int64)
            parts[part] = np.ascontiguousarray(images), numbers
        check_copies(str(where), entry.title, parts["train"], parts["test"])
        lacking = [
            f"{len(items):,} of {COUNTS[part]:,} {part} images"
            for part, items in found.items()
            if len(items) != COUNTS[part]
        ]
        title = f"{entry.title} ({', '.join([*sorted(kinds), *lacking])})"
        return Decoded(title, self.classes, parts, {"incomplete": ", ".join(lacking)} if lacking else {})

    def _check_classes(self, where: Path, counts: dict[str, Counter[str]]) -> None:
        for part, found in counts.items():
            if not found:
                raise UserError(
                    f"{where} holds no images under {part}/<class>/: {self.info.files.format(root=where.parent)}"
                )
            if absent := [name for name in self.classes if name not in found]:
                raise UserError(
                    f"{where} has {len(found)} class folders under {part}, not the {len(self.classes)} of "
                    f"{self.info.name}: {', '.join(absent[:5])} not found"
                )
            most, most_of = COUNTS[part] // len(self.classes), max(found, key=lambda name: found[name])
            if found[most_of] > most:
                raise UserError(
                    f"{where} has {found[most_of]:,} {part} images of {most_of}, but {self.info.name} has {most:,}"
                )


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    for part in COUNTS:
        for path in (folder / part).glob("*/*"):
            if path.is_file():
                yield f"{part}/{path.parent.name}/{path.name}", path
