"""What is known of each data set before any file is read. Imports no torch, so that names can be checked at once."""

import os
from dataclasses import dataclass
from pathlib import Path

from stillpoint.core.base.errors import UserError, nearest

#: The data root when none is given: this environment variable, else the folder "data".
ROOT_VARIABLE = "STILLPOINT_DATA"


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """One data set: its title in tables, the shape of its images and where its files belong.

    `mean` and `std` are per channel, in units of a pixel scaled to [0, 1]; they are the default normalisation, which a
    paper's recipe may replace. `val_size` images are held out of the training part by default. `files` says, as the
    end of an error message, what the user must put where. `streaming` sets stay in their files; `pairs` are of images
    (input, target) instead of an image and its class.
    """

    name: str
    title: str
    num_classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_size: int
    files: str
    streaming: bool = False
    pairs: bool = False


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# APS authors' statistics of the 45,000 training images
_CIFAR10_MEAN, _CIFAR10_STD = (0.49141738, 0.48219556, 0.44662726), (0.24703224, 0.24348514, 0.26158786)

_PAIR_FILES = (
    "put train.safetensors and test.safetensors into {{root}}/{name}, each with tensors input and target, float32 "
    "(N, 1, {size}, {size}); pipelines/aps/README.md shows how they are made"
)


def _pairs(name: str, title: str, size: int, files: str = _PAIR_FILES) -> DatasetInfo:
    """A set of pairs: one channel, no classes, and intensities that are left as they are."""
    return DatasetInfo(name, title, 0, 1, size, (0.0,), (1.0,), 0, files.format(name=name, size=size), pairs=True)


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            title="Digits (8x8 drawn at 24x24 on 32x32)",
            num_classes=10,
            channels=1,
            size=32,
            mean=(0.1718,),
            std=(0.2906,),
            val_size=137,
            files="nothing is needed: scikit-learn carries the images",
        ),
        DatasetInfo(
            name="fashion_mnist",
            title="Fashion-MNIST",
            num_classes=10,
            channels=1,
            size=28,
            mean=(0.2860,),
            std=(0.3530,),
            val_size=5000,
            files="put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
            "t10k-labels-idx1-ubyte.gz (or the same four unpacked, without .gz) into {root}/FashionMNIST/raw",
        ),
        DatasetInfo(
            name="cifar10",
            title="CIFAR-10",
            num_classes=10,
            channels=3,
            size=32,
            mean=_CIFAR10_MEAN,
            std=_CIFAR10_STD,
            val_size=5000,
            files="put cifar-10-python.tar.gz (or the folder cifar-10-batches-py that is in it) into {root}, or a copy "
            "as images: cifar10-jpeg.tar.xz, or folders {root}/cifar10/train/<class>/ and {root}/cifar10/test/<class>/",
        ),
        DatasetInfo(
            name="cifar100",
            title="CIFAR-100",
            num_classes=100,
            channels=3,
            size=32,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            val_size=5000,
            files="put cifar-100-python.tar.gz (or the folder cifar-100-python that is in it) into {root}, or a copy "
            "as images: folders {root}/cifar100/train/<class>/ and {root}/cifar100/test/<class>/",
        ),
        DatasetInfo(
            name="cifar10_c",
            title="CIFAR-10-C",
            num_classes=10,
            channels=3,
            size=32,
            mean=_CIFAR10_MEAN,
            std=_CIFAR10_STD,
            val_size=0,
            files="unpack CIFAR-10-C.tar (Zenodo record 2535967) so that {root}/CIFAR-10-C holds labels.npy and one "
            "<corruption>.npy for each corruption, or put CIFAR-10 into {root}, of which it is then made",
        ),
        DatasetInfo(
            name="imagenet",
            title="ImageNet",
            num_classes=1000,
            channels=3,
            size=224,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            val_size=0,
            files="put one folder of photographs for each class into {root}/imagenet/train and {root}/imagenet/val, or "
            "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz into {root} for the latter",
            streaming=True,
        ),
        _pairs(
            "digits_undersampled",
            "Digits, a quarter of the Fourier columns measured",
            32,
            "nothing is needed: scikit-learn carries the images",
        ),
        _pairs("fastmri", "fastMRI single-coil knee", 320),
        _pairs("lodopab", "LoDoPaB-CT", 362),
    )
}


def info(name: str) -> DatasetInfo:
    """The entry called `name`; a `UserError` that names the nearest ones when there is none."""
    if name not in DATASETS:
        raise UserError(
            f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}{nearest(name, list(DATASETS))}"
        )
    return DATASETS[name]


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """`root`, or the environment's STILLPOINT_DATA, or "data"."""
    return Path(root if root is not None else os.environ.get(ROOT_VARIABLE) or "data")


def missing(name: str, root: Path, detail: str = "") -> UserError:
    """The error for absent files: what is missing, what to put where, and the command that then prepares it."""
    what = info(name).files.format(root=root)
    return UserError(
        f"{info(name).title} is not in {root}{detail}: {what}; then run: stillpoint prepare {name} --root {root}"
    )
