"""The corruptions beside those of the package imagecorruptions: ``stillpoint bench corruptions``.

Photographs of noise at 224x224, with ImageNet-C's constants, severity 3; the package takes one image at a time, ours a
batch. Both take turns in every round, on one thread. Deterministic corruptions must agree to the byte, except for one
grey level in at most one of 100,000 values; the others draw from different streams, and the package's frost overlays
photographs, which we may lack. Our rate at 32x32, with CIFAR-10-C's constants, is measured as well: the package has no
constants for such images. It dates from 2021 and calls functions that current setuptools, NumPy and scikit-image lack;
they are patched in.
"""

import os
import statistics
import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, job_form, pin, run_jobs, spread

SEVERITY = 3
COUNT, SIDE = 8, 224
SMALL_COUNT, SMALL_SIDE = 256, 32
#: corruptions that draw nothing; sums in another order may still change a value between two grey levels
DETERMINISTIC = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    *("gaussian_blur", "saturate"),
)


def peer() -> Any:
    """The package's `corrupt`, or None if it is not installed."""
    found = find_spec("imagecorruptions")
    if found is None or found.origin is None:
        return None
    import numpy

    if not find_spec("pkg_resources"):
        folder = Path(found.origin).parent
        stand_in = types.ModuleType("pkg_resources")
        stand_in.resource_filename = lambda package, name: os.fspath(folder / name)  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = stand_in
    if not hasattr(numpy, "float_"):
        setattr(numpy, "float_", numpy.float64)  # noqa: B010
    import cv2
    import imagecorruptions.corruptions
    from skimage.filters import gaussian

    cv2.setNumThreads(1)

    def lent(image: Any, sigma: float, multichannel: bool = False, **options: Any) -> Any:
        return gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None, **options)

    imagecorruptions.corruptions.gaussian = lent
    return imagecorruptions.corrupt


def photographs(count: int, side: int) -> Any:
    """uint8 (count, side, side, 3), smooth as photographs are."""
    import numpy
    from PIL import Image

    coarse = numpy.random.default_rng(0).integers(0, 256, (count, side // 8, side // 8, 3), dtype=numpy.uint8)
    finer = (Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in coarse)
    return numpy.stack([numpy.asarray(one) for one in finer])


def measure(name: str, theirs: Any, clock: Clock, rounds: int) -> dict[str, Any]:
    """Times of an image by both sides, ratio by rounds, and our rate on small images; `RuntimeError` if bytes differ.

    `theirs` is the package's `corrupt`; if it is None, ours is timed alone.
    """
    import numpy

    from stillpoint.core.data.corruptions import corrupt

    large, small = photographs(COUNT, SIDE), photographs(SMALL_COUNT, SMALL_SIDE)
    calls: dict[str, Callable[[], Any]] = {"stillpoint": lambda: corrupt(large, name, SEVERITY)}
    if theirs is not None:
        named = partial(theirs, corruption_name=name, severity=SEVERITY)
        calls["imagecorruptions"] = lambda: numpy.stack([named(one) for one in large])
    share = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if theirs is not None and name in DETERMINISTIC:
            ours, other = (call().astype(numpy.int16) for call in calls.values())
            apart = numpy.abs(ours - other)
            share = float((apart > 0).mean())
            if apart.max() > 1 or share > 1e-5:
                raise RuntimeError(f"our {name} differs from that of imagecorruptions")
        times = clock.interleaved(calls, rounds)
    (alone,) = clock.interleaved({"stillpoint": lambda: corrupt(small, name, SEVERITY)}, rounds).values()
    row: dict[str, Any] = {
        "images": f"{COUNT} images of smooth noise",
        "contenders": {side: spread([value / COUNT for value in values]) for side, values in times.items()},
        "small_images_per_second": round(1e3 * SMALL_COUNT / statistics.median(alone), 1),
    }
    if theirs is not None:
        ratios = [a / b for a, b in zip(*times.values(), strict=True)]
        row |= {"differing": share, "ratio_to_imagecorruptions": round(statistics.median(ratios), 4)}
    return row


def line(name: str, row: dict[str, Any]) -> str:
    """One corruption in one line of a terminal."""
    sides = ", ".join(f"{side} {v['median_ms']:.2f} ms" for side, v in row["contenders"].items())
    ratio = f"ratio {row['ratio_to_imagecorruptions']:.2f}; " if "ratio_to_imagecorruptions" in row else ""
    return f"{name:18} {sides}; {ratio}{row['small_images_per_second']:.0f} images a second at 32x32"


def main(arguments: list[str] | None = None) -> None:
    form = job_form("benchmarks.corruptions", __doc__, devices=("cpu",), rounds=5)
    args = form.parse_args(arguments)
    pin(args.threads, "benchmarks.corruptions")
    theirs = peer()
    from stillpoint.core.data.corruptions import NAMES

    clock = Clock(args.device, args.threads)
    jobs = [(name, partial(measure, name, theirs, clock, args.rounds)) for name in NAMES]
    run_jobs("corruptions", args, clock, jobs, line)


if __name__ == "__main__":
    main()
