import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.formats import archive_files, decode_image, jpeg_quality, read_idx, read_pickled_batch


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_pickle_is_refused_and_never_runs(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "trap"
    content = pickle.dumps({b"data": Malicious(trap)}, protocol=protocol)
    with pytest.raises(UserError, match=r"batch was refused: it asks for posix\.mkdir"):
        read_pickled_batch(content, "batch")
    assert not trap.exists()
    pickle.loads(content)
    assert trap.exists()  # it would have run


def test_numpy_functions_cannot_be_called_from_a_pickle() -> None:
    content = b"cnumpy\nfromfile\n(S'/etc/passwd'\ntR."
    with pytest.raises(UserError, match=r"numpy\.fromfile"):
        read_pickled_batch(content, "batch")


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_pickled_by_any_numpy_are_read(module: str) -> None:
    data = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = pickle.dumps({b"data": data, b"labels": [1, 2, 3]}, protocol=2)
    content = content.replace(b"numpy._core.multiarray", module.encode())
    batch = read_pickled_batch(content, "batch")
    assert np.array_equal(batch[b"data"], data) and batch[b"labels"] == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1]), pickle.dumps({b"a": 1})[:-3]])
def test_what_is_no_batch_is_refused_in_a_sentence(content: bytes) -> None:
    with pytest.raises(UserError, match="batch was refused"):
        read_pickled_batch(content, "batch")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">2xBB{array.ndim}I", 8, array.ndim, *array.shape) + array.tobytes()


def test_idx_is_read_packed_and_unpacked(tmp_path: Path) -> None:
    array = np.random.RandomState(0).randint(0, 256, (3, 4, 5), np.uint8)
    (tmp_path / "a").write_bytes(idx(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    assert np.array_equal(read_idx(tmp_path / "a"), array) and np.array_equal(read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize("cut", [1, 9, 40])
@pytest.mark.parametrize("packed", [True, False])
def test_a_truncated_idx_file_is_refused_by_name(tmp_path: Path, cut: int, packed: bool) -> None:
    content = idx(np.random.RandomState(0).randint(0, 256, (3, 40, 5), np.uint8))
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes((gzip.compress(content) if packed else content)[:-cut])
    with pytest.raises(UserError, match=f"{path} is truncated"):
        read_idx(path)


@pytest.mark.parametrize("content", [b"", b"\0\0\x0d\x01" + bytes(8), b"GIF89a"])
def test_a_foreign_idx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match="is not an IDX file"):
        read_idx(tmp_path / "a")


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside.txt"),
        tarfile.TarInfo("train/../../outside.txt"),
        tarfile.TarInfo("/tmp/outside.txt"),
        link("a", "/etc/passwd", tarfile.SYMTYPE),
        link("a", "../../outside", tarfile.SYMTYPE),
        link("a", "../outside", tarfile.LNKTYPE),
        link("a/b", "../../outside", tarfile.SYMTYPE),
        link("a/b", "../outside", tarfile.LNKTYPE),
        link("/a", "b", tarfile.SYMTYPE),
        link("device", "", tarfile.CHRTYPE),
        link("pipe", "", tarfile.FIFOTYPE),
    ],
)
def test_an_escaping_archive_is_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    path = archive(tmp_path / "a.tar.xz", (tarfile.TarInfo("fine"), b"fine"), (member, b""))
    with pytest.raises(UserError, match=f"{path} was refused"):
        list(archive_files(path))


def test_an_archive_yields_its_files_and_a_truncated_one_is_refused(tmp_path: Path) -> None:
    content = np.random.RandomState(0).bytes(50000)
    path = archive(tmp_path / "a.tar.xz", (tarfile.TarInfo("one"), b"1"), (tarfile.TarInfo("b/two"), content))
    assert list(archive_files(path)) == [("one", b"1"), ("b/two", content)]
    inside = (
        link("b/three", "../one", tarfile.SYMTYPE),
        link("four", "b/two", tarfile.LNKTYPE),
        tarfile.TarInfo("a/../five"),
    )
    linked = archive(tmp_path / "l.tar.xz", *((member, b"") for member in inside))
    assert list(archive_files(linked)) == [("a/../five", b"")]
    for size in (30000, 10):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(UserError, match="truncated or damaged"):
            list(archive_files(path))


@pytest.mark.parametrize("quality", [10, 40, 50, 75, 90, 99])
def test_jpeg_quality_is_read_from_the_tables(quality: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (32, 32, 3), np.uint8)).save(
        buffer, "JPEG", quality=quality
    )
    assert jpeg_quality(buffer.getvalue()) == quality


def test_a_strange_jpeg_table_has_no_quality() -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", qtables=[list(range(1, 65))])
    assert jpeg_quality(buffer.getvalue()) is None


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (200, 30, 90)).convert(mode).save(buffer, "TIFF")
    assert decode_image(buffer.getvalue(), "x").mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_only_where_that_is_asked_for(orientation: int) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(stored).save(buffer, "PNG", exif=exif)
    # TIFF 6.0: where the first row and the first column of what is stored belong
    turns = [stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1]]
    turns += [stored.T, stored[::-1].T, stored[::-1, ::-1].T, stored[:, ::-1].T]
    assert np.array_equal(decode_image(buffer.getvalue(), "x", "L", upright=True), turns[orientation - 1])
    assert np.array_equal(decode_image(buffer.getvalue(), "x", "L"), stored)


def test_a_truncated_picture_is_named() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)).save(buffer, "JPEG")
    with pytest.raises(UserError, match=r"the image cat\.jpg cannot be decoded"):
        decode_image(buffer.getvalue()[:-500], "cat.jpg")


def test_pictures_of_sixteen_bits_keep_their_greys_and_numbers_without_a_white_are_refused():
    def stored(values, form):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, form)
        return buffer.getvalue()

    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert np.array_equal(np.asarray(decode_image(stored(ramp, "PNG"), "ramp.png", "L")).ravel(), np.arange(256))
    with pytest.raises(UserError, match=r"depth\.tif holds numbers of 32 bits"):
        decode_image(stored(ramp.astype(np.float32), "TIFF"), "depth.tif")
