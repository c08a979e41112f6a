"""CIFAR-10 (Krizhevsky, 2009): 60,000 colour images of 32x32 in ten classes."""

from stillpoint.core.config.catalogue import DatasetInfo
from stillpoint.core.data.cifar import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, Cifar

DATASET = Cifar(
    DatasetInfo(
        name="cifar10",
        title="CIFAR-10",
        num_classes=10,
        channels=3,
        size=32,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        val_size=5000,
        files="put cifar-10-python.tar.gz (or the folder cifar-10-batches-py from it) into {root}, or a copy "
        "as images: cifar10-jpeg.tar.xz, or folders {root}/cifar10/train/<class>/ and {root}/cifar10/test/<class>/",
    ),
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{k}" for k in range(1, 6)),
    test="test_batch",
    labels=b"labels",
    classes=CIFAR10_CLASSES,
)
