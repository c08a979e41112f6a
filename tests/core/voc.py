"""PASCAL VOC's folders on a few photographs that are drawn here."""

from pathlib import Path

import numpy as np
from PIL import Image


def drawn_voc(root: Path) -> Path:
    """Seven photographs of several sizes, whose colour tells the class of each pixel: 20 times the class, in red."""
    home = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    random = np.random.RandomState(0)
    names = [f"2007_{k:06}" for k in range(7)]
    for k, name in enumerate(names):
        blocks = random.choice(np.uint8([0, 3, 7, 12]), (4, 5))
        classes = np.kron(blocks, np.ones((16 + 2 * k, 16 + k), np.uint8))
        shown = np.stack([20 * classes, 0 * classes, 0 * classes], 2)
        Image.fromarray(shown).save(home / "JPEGImages" / f"{name}.jpg", quality=100, subsampling=0)
        classes[:2] = 255
        picture = Image.fromarray(classes, "P")
        picture.putpalette([value for k in range(256) for value in (k, 255 - k, 0)])
        picture.save(home / "SegmentationClass" / f"{name}.png")
        Image.fromarray(classes).save(home / "SegmentationClassAug" / f"{name}.png")
    for part, chosen in (("train", names[:3]), ("val", names[5:])):
        (home / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(chosen) + "\n")
    return root
