"""Packed archives are read to their end, and what is no whole archive never passes for a shorter one."""

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.archives import archive_files

BOUNDS = {"most": 1 << 20, "largest": 60_000}
MEMBER = 512 + 1024  # a header and what 700 bytes take


@pytest.fixture(scope="module")
def whole() -> bytes:
    """A tar archive of four files of 700 bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for k in range(4):
            member = tarfile.TarInfo(f"{k}.png")
            member.size = 700
            archive.addfile(member, io.BytesIO(bytes([k]) * 700))
    return out.getvalue()


def names(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    return [name for name, _ in archive_files(path, **BOUNDS)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_cut_between_two_members_or_damaged_in_a_header_is_refused(
    tmp_path: Path, whole: bytes, pack: Callable[[bytes], bytes]
) -> None:
    assert len(names(tmp_path / "a.tar", pack(whole))) == 4
    damaged = bytearray(whole)
    damaged[2 * MEMBER + 150] ^= 1  # in the checksum of the third header
    for content in (whole[: 2 * MEMBER], bytes(damaged)):
        with pytest.raises(UserError, match="without its end mark"):
            names(tmp_path / "a.tar", pack(content))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_parts_that_were_packed_apart_are_one_archive(
    tmp_path: Path, whole: bytes, pack: Callable[[bytes], bytes]
) -> None:
    parts = pack(whole[: 2 * MEMBER]) + pack(whole[2 * MEMBER :])
    assert names(tmp_path / "a.tar", parts) == ["0.png", "1.png", "2.png", "3.png"]
    assert len(names(tmp_path / "a.tar", lzma.compress(whole) + bytes(8))) == 4
    with pytest.raises(UserError, match="other data follow"):
        names(tmp_path / "a.tar", lzma.compress(whole) + b"junk" * 4)


def test_the_check_sum_behind_the_last_member_is_read(tmp_path: Path, whole: bytes) -> None:
    packed = bytearray(gzip.compress(whole))
    packed[-6] ^= 1
    for content in (bytes(packed), gzip.compress(whole)[:-9]):
        with pytest.raises(UserError, match="truncated or damaged"):
            names(tmp_path / "a.tar", content)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_header_that_announces_more_than_there_may_be_is_not_read(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("long")
    member.type, member.size = kind, 32 << 20
    (tmp_path / "a.tar").write_bytes(gzip.compress(member.tobuf() + bytes(member.size), 1))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="unpacks to more than the allowed"):
            list(archive_files(tmp_path / "a.tar", most=64 << 20, largest=60_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_headers_that_announce_headers_without_end_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("long")
    member.type, text = kind, b"20 comment=aaaaaaaa\n"
    member.size = len(text)
    with pytest.raises(UserError, match="truncated or damaged"):
        names(tmp_path / "a.tar", (member.tobuf() + text.ljust(512, b"\0")) * 900)


def test_a_header_of_a_sparse_file_without_its_map_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("0.png")
        member.size = 512
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "n"}
        archive.addfile(member, io.BytesIO(bytes(512)))
    with pytest.raises(UserError, match="truncated or damaged"):
        names(tmp_path / "a.tar", out.getvalue())


def test_an_archive_of_many_members_takes_the_memory_of_one(tmp_path: Path) -> None:
    out, count = io.BytesIO(), 4000
    header = tarfile.TarInfo("0.png").tobuf()
    out.write(header * count + bytes(1024))
    (tmp_path / "a.tar").write_bytes(gzip.compress(out.getvalue()))
    tracemalloc.start()
    try:
        found = sum(1 for _ in archive_files(tmp_path / "a.tar", most=4 << 20, largest=60_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == count and peak < 1 << 20
