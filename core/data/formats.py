"""Readers of the published file formats: IDX, CIFAR's pickled batches, image files. Nothing from a file is executed."""

import gzip
import io
import lzma
import pickle
import posixpath
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stillpoint.core.base.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read_idx(path: Path) -> np.ndarray:
    """A uint8 array from an IDX file (LeCun's format of MNIST), packed with gzip when the name ends in .gz.

    Raises a `UserError` naming the file when it is truncated, damaged, or something else.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): fetch it again") from error
    # two zero bytes, the type (8: uint8), the number of dimensions, then each dimension as a big-endian 32-bit number
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise UserError(f"{path} is not an IDX file of bytes")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise UserError(f"{path} is truncated: its header is incomplete; fetch it again")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - start != expected:
        raise UserError(
            f"{path} is truncated or damaged: {expected} bytes announced, {len(content) - start} there; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r} is not needed by any CIFAR file")
    return text.encode("latin1")


#: what a pickled array names as its maker; its module has moved between NumPy 1 and 2
_RECONSTRUCT: Any = np.zeros(0).__reduce__()[0]


class _ArraysOnly(pickle.Unpickler):
    """Builds containers, numbers, bytes and NumPy arrays, and refuses every other name that a pickle could call."""

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
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs") from None


def read_pickled_batch(content: bytes, name: str) -> dict[bytes, Any]:
    """The dictionary in one of CIFAR's pickled files; `name` is only for the `UserError` when it is not one."""
    try:
        value = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a hostile pickle may raise anything at all
        raise UserError(f"{name} was refused: {error or 'it is not a CIFAR batch'}") from error
    if not isinstance(value, dict):
        raise UserError(f"{name} was refused: a CIFAR batch is a dictionary, this is a {type(value).__name__}")
    return value


def archive_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each plain file in a tar archive, read in one pass; nothing is written to the disk.

    Raises a `UserError` when the archive is truncated or damaged, or holds a member that would leave the folder it is
    unpacked into (an absolute name, a "..", a link outside, a device): such an archive is refused as a whole.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if why := _escape(member):
                    raise UserError(f"{path} was refused: {why}")
                if not member.isfile():
                    continue
                file = archive.extractfile(member)
                content = file.read() if file else b""
                if len(content) != member.size:
                    raise EOFError("the archive ends inside a member")
                yield member.name, content
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): fetch it again") from error


def _escape(member: tarfile.TarInfo) -> str:
    """How unpacking this member could leave the folder, or make what is no file, folder or link; "" where it could not.

    What `tarfile.data_filter` judges too, which Python 3.11 has only since 3.11.4 (Debian 12 is at 3.11.2).
    """
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        return f"{member.name!r} is a device or a pipe"
    places = {member.name: f"{member.name!r} would be outside of the folder"}
    if member.issym() or member.islnk():
        # a symbolic link is read from where it stands, a hard one from the top of the archive
        start = posixpath.dirname(member.name) if member.issym() else ""
        target = posixpath.join(start, member.linkname)
        places[target] = f"{member.name!r} is a link to {member.linkname!r}, outside of the folder"
    for place, why in places.items():
        if posixpath.isabs(place) or posixpath.normpath(place).split("/")[0] == "..":
            return why
    return ""


def decode_image(source: Path | bytes, name: str, mode: str = "RGB", *, upright: bool = False) -> Image.Image:
    """A fully decoded picture in `mode` ("RGB" or "L"); grey, palette and CMYK files are converted.

    `upright` turns it as its EXIF data says, as every viewer does. Data sets are read without, as the papers read them.

    Raises a `UserError` that names the file when it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            image = ImageOps.exif_transpose(file) if upright else file
            if image.mode.startswith("I;16"):  # Pillow would clip at 255
                return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert(mode)
            if image.mode in ("I", "F"):
                raise UserError(
                    f"the image {name} holds numbers of 32 bits, whose white is unknown: save it with 8 or 16"
                )
            return image.convert(mode)  # decodes the whole file, so a truncated one is found here
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"the image {name} cannot be decoded ({error})") from error


# Annex K of the JPEG standard (ITU-T T.81, table K.1): the luminance table that libjpeg scales by the quality
_LUMINANCE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)


def jpeg_quality(content: bytes) -> int | None:
    """The quality setting (1..100) with which libjpeg would have written this file, or None if there is none such."""
    with Image.open(io.BytesIO(content)) as image:
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
