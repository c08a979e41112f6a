"""Checks the content of images, since names and shapes do not prove which data set they are from."""

import hashlib

import numpy as np

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.contract import Arrays

#: tolerated share of duplicate images; the published sets have a few in a thousand
_COPIES = 0.05


def content_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of shape, pixels (uint8) and labels (class labels as int64), the same on every machine."""
    state = hashlib.sha256(repr(images.shape).encode())
    state.update(np.ascontiguousarray(images).data)
    whole = labels.astype("<i8") if labels.ndim == 1 else labels.astype(np.uint8)
    state.update(np.ascontiguousarray(whole).data)
    return state.hexdigest()


def image_digests(images: np.ndarray, labels: np.ndarray | None = None) -> list[bytes]:
    """SHA-256 of each image's pixels, followed by its label as one byte if there are labels."""
    tails = [b""] * len(images) if labels is None else [bytes([label]) for label in labels.tolist()]
    return [hashlib.sha256(image.tobytes() + tail).digest() for image, tail in zip(images, tails, strict=True)]


def set_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the sorted `image_digests`, which does not depend on the images' order; labels must be below 256."""
    return hashlib.sha256(b"".join(sorted(image_digests(images, labels)))).hexdigest()


def check_copies(where: str, title: str, train: Arrays, test: Arrays) -> None:
    """`UserError` if more than 5 % of a part's images are duplicates, or of the test images are training images."""
    digests = {"training": image_digests(train[0]), "test": image_digests(test[0])}
    for part, found in digests.items():
        if len(found) - len(set(found)) > _COPIES * len(found):
            raise UserError(
                f"{where} is not {title}: of {len(found)} {part} images only {len(set(found))} differ from one another"
            )
    known = set(digests["training"])
    if (leaked := sum(one in known for one in digests["test"])) > _COPIES * len(digests["test"]):
        raise UserError(
            f"{where} is not {title}: {leaked} of {len(digests['test'])} test images are among the training images too"
        )
