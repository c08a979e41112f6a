import ast
import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from scipy.io import savemat

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.archives import archive_files
from stillpoint.core.data.formats import (
    decode_image,
    decode_label_map,
    jpeg_quality,
    read_idx,
    read_mat,
    read_npy,
    read_pickled_batch,
)

ROOT = Path(__file__).parents[3]
BOUNDS = {"most": 1 << 20, "largest": 60_000}


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_pickle_is_refused_and_never_runs(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "trap"
    content = pickle.dumps({b"data": Malicious(trap)}, protocol=protocol)
    with pytest.raises(UserError, match=r"batch was refused: it refers to posix\.mkdir"):
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
    assert np.array_equal(read_idx(tmp_path / "a", 8000), array) and np.array_equal(
        read_idx(tmp_path / "a.gz", 8000), array
    )


@pytest.mark.parametrize("cut", [1, 9, 40])
@pytest.mark.parametrize("packed", [True, False])
def test_a_truncated_idx_file_is_refused_by_name(tmp_path: Path, cut: int, packed: bool) -> None:
    content = idx(np.random.RandomState(0).randint(0, 256, (3, 40, 5), np.uint8))
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes((gzip.compress(content) if packed else content)[:-cut])
    with pytest.raises(UserError, match=f"{path} is truncated"):
        read_idx(path, 8000)


@pytest.mark.parametrize("content", [b"", b"\0\0\x0d\x01" + bytes(8), b"GIF89a"])
def test_a_foreign_idx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match="is not an IDX file"):
        read_idx(tmp_path / "a", 8000)


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
        list(archive_files(path, **BOUNDS))


def test_an_archive_yields_its_files_and_a_truncated_one_is_refused(tmp_path: Path) -> None:
    content = np.random.RandomState(0).bytes(50000)
    path = archive(tmp_path / "a.tar.xz", (tarfile.TarInfo("one"), b"1"), (tarfile.TarInfo("b/two"), content))
    assert list(archive_files(path, **BOUNDS)) == [("one", b"1"), ("b/two", content)]
    inside = (
        link("b/three", "../one", tarfile.SYMTYPE),
        link("four", "b/two", tarfile.LNKTYPE),
        tarfile.TarInfo("a/../five"),
    )
    linked = archive(tmp_path / "l.tar.xz", *((member, b"") for member in inside))
    assert list(archive_files(linked, **BOUNDS)) == [("a/../five", b"")]
    for size in (30000, 10):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(UserError, match="truncated or damaged"):
            list(archive_files(path, **BOUNDS))


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
    with pytest.raises(UserError, match=r"depth\.tif has 32-bit pixels"):
        decode_image(stored(ramp.astype(np.float32), "TIFF"), "depth.tif")


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """What is read within it holds no more than so much memory at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    finally:
        tracemalloc.stop()


ABSURD = {
    "dimensions that no image has": b"\0\0\x08\xff" + b"\xff" * 4 * 255,
    "no dimension": b"\0\0\x08\0\7",
    "a product that overflows": b"\0\0\x08\4" + struct.pack(">4I", 1 << 31, 1 << 31, 4, 1) + b"\7",
    "more than there may be": b"\0\0\x08\2" + struct.pack(">2I", 4096, 4096) + bytes(64),
    "half a header": b"\0\0\x08\3" + bytes(9),
    "one byte too many": b"\0\0\x08\1" + struct.pack(">I", 3) + b"1234",
}


@pytest.mark.parametrize("what", ABSURD)
@pytest.mark.parametrize("packed", [False, True])
def test_an_absurd_idx_header_is_refused_in_a_sentence(tmp_path: Path, what: str, packed: bool) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(ABSURD[what]) if packed else ABSURD[what])
    with pytest.raises(UserError, match=f"{path} (is|was)"), at_most(4):
        read_idx(path, 8000)


def test_an_idx_header_that_announces_too_much_is_told_with_both_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(ABSURD["more than there may be"])
    with pytest.raises(UserError, match=r"its header announces 16,777,216 bytes, more than the allowed 8,000"):
        read_idx(path, 8000)


def test_a_packed_idx_file_takes_no_more_memory_than_its_data_set(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    # 128 MB of zeros in 125 kB
    path.write_bytes(gzip.compress(b"\0\0\x08\1" + struct.pack(">I", 5000) + bytes(128 << 20), 9))
    assert path.stat().st_size < 200_000
    with (
        pytest.raises(UserError, match=f"{path} is truncated or damaged: its header announces 5000 bytes, it has more"),
        at_most(4),
    ):
        read_idx(path, 8000)


def test_an_archive_takes_no_more_memory_than_its_bounds(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.tar.xz", (tarfile.TarInfo("train/cat/0.jpg"), bytes(128 << 20)))
    assert path.stat().st_size < 50_000
    with (
        pytest.raises(UserError, match=r"has 134,217,728 bytes, but a file in it may have at most 60,000"),
        at_most(40),
    ):
        list(archive_files(path, **BOUNDS))
    many = archive(tmp_path / "many.tar.xz", *((tarfile.TarInfo(f"{k}"), bytes(50_000)) for k in range(40)))
    with pytest.raises(UserError, match=r"it unpacks to more than the allowed 1,048,576 bytes"), at_most(40):
        list(archive_files(many, **BOUNDS))
    # a name of 64 MB, which tarfile would hold in memory
    long = tmp_path / "long.tar"
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    long.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20)))
    with pytest.raises(UserError, match="unpacks to more than"), at_most(4):
        list(archive_files(long, most=1 << 30, largest=60_000))


def test_an_archive_that_claims_a_terabyte_of_holes_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("train/cat/0.jpg")
    member.size = 512
    member.pax_headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,512", "GNU.sparse.numblocks": "1"}
    path = tmp_path / "sparse.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(bytes(512)))
    with pytest.raises(UserError, match=r"is a sparse file of 1,099,511,627,776 bytes"):
        list(archive_files(path, **BOUNDS))


def test_an_xz_file_that_asks_for_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.xz", (tarfile.TarInfo("one"), b"1"))
    content = bytearray(path.read_bytes())
    # the header of the first block: its size, flags, filter LZMA2, one property: the dictionary's size; 40 is 4 GiB
    start, end = 12, 12 + 4 * (content[12] + 1)
    assert content[start + 2 : start + 4] == b"\x21\x01"
    content[start + 4] = 40
    content[end - 4 : end] = struct.pack("<I", zlib.crc32(content[start : end - 4]))
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tar\.xz is truncated or damaged \(Memory usage limit"):
        list(archive_files(path, **BOUNDS))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_is_known_by_its_content_and_not_by_its_name(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "cifar10-jpeg.tar"
    with tarfile.open(path, mode) as tar:
        for k in range(3):
            member = tarfile.TarInfo(f"{k}/" + 200 * "x")  # a name that needs a header of its own
            member.size = 1000 * k
            tar.addfile(member, io.BytesIO(bytes([k]) * 1000 * k))
    assert [(n[:2], c) for n, c in archive_files(path, **BOUNDS)] == [
        (f"{k}/", bytes([k]) * 1000 * k) for k in range(3)
    ]


def test_a_postscript_file_called_a_photograph_starts_no_program(tmp_path: Path, monkeypatch) -> None:
    trap = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {trap}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(photo, "EPS")
    with pytest.raises(UserError, match=r"photo\.jpg cannot be decoded: it must be one of JPEG, PNG"):
        decode_image(photo, str(photo))
    assert not trap.exists()
    with pytest.raises(OSError), Image.open(photo) as image:
        image.load()
    assert trap.exists()  # it would have run


def test_every_picture_of_the_house_is_opened_by_the_names_of_its_formats() -> None:
    unnamed = []
    for path in (file for part in ("core", "pipelines", "benchmarks") for file in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open"
            if called and "formats" not in {word.arg for word in node.keywords}:
                unnamed.append(f"{path}:{node.lineno}")
    assert not unnamed


def test_a_picture_of_more_pixels_than_a_photograph_is_refused_before_it_is_decoded() -> None:
    def png(width: int, height: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("1", (8, 8)).save(buffer, "PNG")
        content = bytearray(buffer.getvalue())
        content[16:24] = struct.pack(">2I", width, height)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        return bytes(content)

    for width, height in ((10_000, 9_000), (60_000, 60_000)):
        with pytest.raises(UserError, match=r"more than the 89,478,485 pixels"), at_most(4):
            decode_image(png(width, height), "large.png")
    with pytest.raises(UserError, match=r"large\.png is 9000x9000, not 32x32"), at_most(4):
        decode_image(png(9000, 9000), "large.png", size=(32, 32))


def npy(header: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,)}\n"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-3,)}\n"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n") + bytes(8),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807, 9)}\n"),
        npy("[" * 9000),
        b"\x93NUMPY\7\7",
        b"",
    ],
)
def test_an_absurd_numpy_header_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fog.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"fog\.npy is truncated or not a NumPy array") as refused, at_most(4):
        read_npy(path)
    assert "\n" not in str(refused.value)


def test_an_archive_of_arrays_or_a_pickle_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(np.zeros(3)))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(UserError, match="not a NumPy array"):
            read_npy(tmp_path / name)


def test_a_matlab_file_is_read_within_bounds() -> None:
    buffer = io.BytesIO()
    savemat(buffer, {"a": np.arange(3)}, do_compression=True)
    assert read_mat(buffer.getvalue(), "meta.mat")["a"].tolist() == [0, 1, 2]
    packed = zlib.compress(bytes(80 << 20))
    bomb = buffer.getvalue()[:128] + struct.pack("<II", 15, len(packed)) + packed
    with pytest.raises(UserError, match=r"meta\.mat is damaged \(it unpacks to more than 67,108,864 bytes\)"):
        read_mat(bomb, "meta.mat")
    for content in (b"", b"MATLAB 5.0 MAT-file", bytes(200), b"MATLAB 7.3 MAT-file" + bytes(600)):
        with pytest.raises(UserError, match=r"meta\.mat is damaged"):
            read_mat(content, "meta.mat")


def test_a_label_map_has_a_number_for_each_pixel_of_its_image(tmp_path: Path) -> None:
    classes = np.random.RandomState(0).choice(np.uint8([0, 7, 20, 255]), (4, 6))
    path = tmp_path / "map.png"
    picture = Image.fromarray(classes, "P")
    picture.putpalette([value for k in range(256) for value in (k, 255 - k, 7)])
    picture.save(path)
    assert np.array_equal(decode_label_map(path, "map", (6, 4)), classes)
    with pytest.raises(UserError, match="map is 6x4, but its image 4x6: each pixel needs its own label"):
        decode_label_map(path, "map", (4, 6))
    picture.convert("RGB").save(path)
    with pytest.raises(UserError, match=r"map has colours \(RGB\)"):
        decode_label_map(path, "map", (6, 4))


def test_a_refusal_names_its_cause_where_the_error_says_nothing() -> None:
    claims = b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"."
    with pytest.raises(UserError, match=r"batch was refused: \w+"):
        read_pickled_batch(claims, "batch")
    with pytest.raises(UserError, match="batch was refused: MemoryError"):
        read_pickled_batch(b"\x80\x02}r\xff\xff\xff\x7f.", "batch")
