"""CIFAR-100 (Krizhevsky, 2009): 60,000 colour images of 32x32 in a hundred classes, by their fine labels."""

from stillpoint.core.config.catalogue import DatasetInfo
from stillpoint.core.data.cifar import CIFAR100_CLASSES, Cifar

DATASET = Cifar(
    DatasetInfo(
        name="cifar100",
        title="CIFAR-100",
        num_classes=100,
        channels=3,
        size=32,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        val_size=5000,
        files="put cifar-100-python.tar.gz (or the folder cifar-100-python from it) into {root}, or a copy "
        "as images: folders {root}/cifar100/train/<class>/ and {root}/cifar100/test/<class>/",
    ),
    archive="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    labels=b"fine_labels",
    classes=CIFAR100_CLASSES,
    names=("meta", b"fine_label_names"),
)
