"""Strict readers of the published file formats, which execute nothing from a file.

IDX arrays, CIFAR's pickled batches, .npy, MATLAB 5, images and label maps. Sizes in headers are trusted only within
bounds.
"""

import io
import math
import pickle
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stillpoint.core.base.errors import UserError, cause
from stillpoint.core.data.archives import DAMAGE, Unpacked

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
#: the accepted image formats, whatever a file's name; Pillow would start Ghostscript for PostScript
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
#: more pixels than any photograph of our data sets has, and less than 300 MB
MOST_PIXELS = 89_478_485
#: most dimensions of an IDX array: grey images have three, colours are a fourth
_IDX_DIMENSIONS = 4
#: most bytes of meta.mat unpacked; the published one has a hundredth
_MAT_BYTES = 64 << 20


def read_idx(path: Path, most: int) -> np.ndarray:
    """A uint8 array of at most `most` bytes from an IDX file (LeCun's format of MNIST), gzipped or not.

    `UserError` that names the file if it is truncated, damaged, larger, or something else.
    """
    try:
        # two zero bytes, the type (8: uint8), the number of dimensions, then the sides as big-endian 32-bit numbers
        with Unpacked(path, most + 4 + 4 * _IDX_DIMENSIONS + 1) as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != b"\0\0\x08" or not 1 <= start[3] <= _IDX_DIMENSIONS:
                raise UserError(f"{path} is not an IDX file of bytes, in 1 to {_IDX_DIMENSIONS} dimensions")
            sides = file.read(4 * start[3])
            if len(sides) < 4 * start[3]:
                raise UserError(f"{path} is truncated: its header is incomplete; fetch it again")
            shape = struct.unpack(f">{start[3]}I", sides)
            expected = math.prod(shape)
            if expected > most:
                raise UserError(
                    f"{path} was refused: its header announces {expected:,} bytes, more than the allowed {most:,}"
                )
            content = file.read(expected + 1)
    except DAMAGE as error:
        raise UserError(f"{path} is truncated or damaged ({error}): fetch it again") from error
    if len(content) != expected:
        there = len(content) if len(content) < expected else "more"
        raise UserError(
            f"{path} is truncated or damaged: its header announces {expected} bytes, it has {there}; fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


def read_npy(path: Path) -> np.ndarray:
    """The array in an existing .npy file, memory-mapped; `UserError` for an archive, objects or a truncated file."""
    try:
        with np.errstate(over="raise"):  # the product of absurd sizes overflows
            found = np.lib.format.open_memmap(path, mode="r")
        if found.dtype.hasobject:
            raise ValueError("it holds objects")
    # NumPy's reader raises various errors for damaged headers
    except Exception as error:
        raise UserError(f"{path} is truncated or not a NumPy array ({error}): fetch it again") from error
    return found


def read_mat(content: bytes, name: str) -> dict[str, Any]:
    """The variables of a MATLAB 5 file; `name` names it in the `UserError` for a damaged or too large one."""
    from scipy.io import loadmat

    try:
        if not content.startswith(b"MATLAB 5.0 MAT-file"):
            raise ValueError("it is not a MATLAB 5 file")
        left, place = _MAT_BYTES, 128
        while place + 8 <= len(content):
            kind, size = struct.unpack("<II" if content[126:128] == b"IM" else ">II", content[place : place + 8])
            if kind == 15:  # packed with zlib
                left -= len(zlib.decompressobj().decompress(content[place + 8 : place + 8 + size], left + 1))
            if left < 0:
                raise ValueError(f"it unpacks to more than {_MAT_BYTES:,} bytes")
            place += 8 + size
        return loadmat(io.BytesIO(content), squeeze_me=True, struct_as_record=True)
    # scipy's reader raises various errors for damaged files
    except Exception as error:
        raise UserError(f"{name} is damaged ({cause(error)}): fetch it again") from None


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r} is not needed by any CIFAR file")
    return text.encode("latin1")


#: the constructor that a pickled array names; its module moved between NumPy 1 and 2
_RECONSTRUCT: Any = np.zeros(0).__reduce__()[0]


class _ArraysOnly(pickle.Unpickler):
    """Unpickles containers, numbers, bytes and NumPy arrays, and refuses every other callable."""

    _allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("_codecs", "encode"): _latin1_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no CIFAR file needs") from None


def read_pickled_batch(content: bytes, name: str) -> dict[bytes, Any]:
    """The dictionary in one of CIFAR's pickled files; `name` names it in the `UserError` for anything else."""
    try:
        value = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a hostile pickle may raise anything
        raise UserError(f"{name} was refused: {cause(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{name} was refused: a CIFAR batch must be a dictionary, not a {type(value).__name__}")
    return value


def decode_image(
    source: Path | bytes,
    name: str,
    mode: str = "RGB",
    *,
    upright: bool = False,
    size: tuple[int, int] | None = None,
) -> "Image.Image":
    """A fully decoded image in `mode` ("RGB" or "L"); grey, palette and CMYK files are converted.

    `upright` applies the EXIF orientation, as viewers do; data sets are read without it, as in the papers. An image
    whose (width, height) is not `size` is refused before it is decoded.

    `UserError` that names the file if it is not in `IMAGE_FORMATS`, has another size or cannot be decoded.
    """
    from PIL import Image, ImageOps

    try:
        with _opened(source, name) as file:
            if size is not None and file.size != size:
                raise UserError(f"the image {name} is {file.width}x{file.height}, not {size[0]}x{size[1]}")
            image = ImageOps.exif_transpose(file) if upright else file
            if image.mode.startswith("I;16"):  # Pillow would clip at 255
                return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert(mode)
            if image.mode in ("I", "F"):
                raise UserError(
                    f"the image {name} has 32-bit pixels, whose white level is unknown: save it with 8 or 16 bits"
                )
            return image.convert(mode)  # decodes the whole file, and so detects a truncated one
    except UserError:
        raise
    # Pillow's decoders raise various errors for damaged files
    except Exception as error:
        raise UserError(f"the image {name} cannot be decoded ({cause(error)})") from error


def picture_size(source: Path, name: str) -> tuple[int, int]:
    """(width, height) from an image's header. `UserError` as in `decode_image`."""
    with _opened(source, name) as file:
        return file.size


def decode_label_map(source: Path, name: str, size: tuple[int, int]) -> np.ndarray:
    """The values of a palette or grey image, uint8 (height, width): a class for each pixel.

    `size` is the (width, height) of the image that it labels. `UserError` if the map has another size, has colours
    instead of class numbers, or cannot be decoded.
    """
    try:
        with _opened(source, name) as file:
            if file.size != size:
                raise UserError(
                    f"the label map {name} is {file.width}x{file.height}, but its image {size[0]}x{size[1]}: each "
                    "pixel needs its own label"
                )
            if file.mode not in ("P", "L"):
                raise UserError(f"the label map {name} has colours ({file.mode}), not a class number for each pixel")
            return np.array(file)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the label map {name} cannot be decoded ({cause(error)})") from error


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator["Image.Image"]:
    """An image of one of `IMAGE_FORMATS` and at most `MOST_PIXELS`, not decoded yet."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # refused below, in one sentence
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=IMAGE_FORMATS)
    except UnidentifiedImageError as error:
        raise UserError(f"the image {name} cannot be decoded: it must be one of {', '.join(IMAGE_FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"the image {name} has more than the {MOST_PIXELS:,} pixels allowed") from error
    with file:
        if file.width * file.height > MOST_PIXELS:
            raise UserError(
                f"the image {name} is {file.width}x{file.height}, more than the {MOST_PIXELS:,} pixels allowed"
            )
        yield file


# the luminance table that libjpeg scales by the quality (JPEG standard, ITU-T T.81, table K.1)
_LUMINANCE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)


def jpeg_quality(content: bytes) -> int | None:
    """The quality (1..100) with which libjpeg would have written this file; None if no quality matches."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        tables = getattr(image, "quantization", None)
    if not tables:
        return None
    standard = np.array([int(entry) for entry in _LUMINANCE.split()])
    for quality in range(1, 101):
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        # compared sorted: libraries differ in whether they report a table row by row or in zigzag order
        if sorted(np.clip((standard * scale + 50) // 100, 1, 255).tolist()) == sorted(tables[0]):
            return quality
    return None
