"""Reads downloaded archives forward in one pass and within bounds; writes nothing to disk.

The caller states how large a data set's files may be. A packed file is refused as soon as it unpacks to more, so that a
few hundred kilobytes cannot exhaust the memory.
"""

import bz2
import gzip
import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from stillpoint.core.base.errors import UserError

#: memory for unpacking one .xz: its largest preset needs 65 MiB, but a header may ask for 4 GiB
XZ_MEMORY = 128 << 20
_BLOCK = 1 << 16
#: bytes of a header with a long name; tarfile would read any size of it into memory
_HEADER = 1 << 20
_XZ = b"\xfd7zXZ\0"
#: errors that a damaged packed file raises; the last three for headers that tarfile trusts
DAMAGE = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError, ValueError, OverflowError, RecursionError)


class _Xz(io.RawIOBase):
    """A .xz unpacked forward within `XZ_MEMORY`; `lzma.LZMAFile` has no limit of memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._unpack = file, lzma.LZMADecompressor(memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = b""
        while not content:
            packed = b""
            if self._unpack.eof:
                # the format allows several streams, with zeros between them
                packed = self._unpack.unused_data.lstrip(b"\0")
                while not packed and (block := self._file.read(_BLOCK)):
                    packed = block.lstrip(b"\0")
                if not packed:
                    break
                if not (packed := packed + self._file.read(len(_XZ))).startswith(_XZ):
                    raise lzma.LZMAError("other data follow the compressed stream")
                self._unpack = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
            elif self._unpack.needs_input and not (packed := self._file.read(_BLOCK)):
                raise EOFError("it ends inside the packed data")
            content = self._unpack.decompress(packed, len(buffer))
        buffer[: len(content)] = content
        return len(content)


class Unpacked:
    """The content of a file, unpacked if its first bytes (not its name) are those of gzip, bzip2 or xz.

    Reads forward. `UserError` if more than `most` bytes would be unpacked, or more than `largest` at once.
    """

    def __init__(self, path: Path, most: int, largest: int | None = None) -> None:
        self.path, self.most, self.largest = path, most, most if largest is None else largest
        self._position = 0
        self.last = b""  # the result of the last read
        self._raw = path.open("rb")
        start = self._raw.read(6)
        self._raw.seek(0)
        self._content: Any = self._raw
        if start.startswith(b"\x1f\x8b"):
            self._content = gzip.GzipFile(fileobj=self._raw)
        elif start.startswith(b"BZh"):
            self._content = bz2.BZ2File(self._raw)
        elif start.startswith(_XZ):
            self._content = io.BufferedReader(_Xz(self._raw), _BLOCK)

    def __enter__(self) -> "Unpacked":
        return self

    def __exit__(self, *exception: object) -> None:
        self._raw.close()

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer at the end of the file; -1 reads the rest."""
        left = self.most - self._position
        wanted = left + 1 if size < 0 else size
        if size > self.largest or wanted > left:
            # a header may announce more than the file holds, so one byte beyond the bound is tried
            wanted = min(wanted, left + 1, self.largest + 1)
        content = self.last = self._content.read(wanted)
        self._position += len(content)
        if self._position > self.most or len(content) > self.largest:
            limit = self.most if self._position > self.most else self.largest
            raise UserError(f"{self.path} was refused: it unpacks to more than the allowed {limit:,} bytes")
        return content

    def tell(self) -> int:
        return self._position

    def seek(self, place: int, whence: int = 0) -> int:
        """Forward only; skipped bytes count."""
        if whence or place < self._position:
            raise tarfile.ReadError("its parts are not in order")
        while self._position < place:
            if not self.read(min(place - self._position, _BLOCK)):
                break
        return self._position


def archive_files(path: Path, *, most: int, largest: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each plain file in a tar archive, read in one pass.

    It may hold `most` bytes in all, headers included, and `largest` in one file. `UserError` for a larger one, for one
    that is truncated (an archive ends with zeros) or damaged, and for one with a member that would leave the folder it
    is unpacked into (an absolute name, a "..", a link outside), a device, or a sparse file, whose size cannot be
    trusted.
    """
    try:
        with Unpacked(path, most, max(largest, _HEADER)) as content:
            # not as a stream ("r|"), which reads whatever a header announces and bypasses the bounds
            archive = tarfile.open(fileobj=content, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
            for member in archive:
                if why := _refusal(member, largest):
                    raise UserError(f"{path} was refused: {why}")
                # or tarfile would keep a list of all members
                archive.members.clear()
                if not member.isfile():
                    continue
                file = archive.extractfile(member)
                found = file.read() if file else b""
                if len(found) != member.size:
                    raise EOFError("the archive ends inside a member")
                yield member.name, found
            # tarfile mistakes a damaged header, and the end of the file, for the end of the archive
            if not content.last or content.last.strip(b"\0"):
                raise EOFError("the archive ends without its end mark")
            while content.read(_BLOCK):
                pass  # to check the packed data to their end
    except DAMAGE as error:
        raise UserError(f"{path} is truncated or damaged ({error}): fetch it again") from error


def _refusal(member: tarfile.TarInfo, largest: int) -> str:
    """Why an archive with this member is refused; empty if it is not.

    Checks paths as `tarfile.data_filter` does, which Python has only since 3.11.4 (Debian 12 has 3.11.2).
    """
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        return f"{member.name!r} is a device or a pipe"
    if member.issparse():
        return f"{member.name!r} is a sparse file of {member.size:,} bytes, which no data set holds"
    if not 0 <= member.size <= largest:
        return f"{member.name!r} has {member.size:,} bytes, but a file in it may have at most {largest:,}"
    places = {member.name: f"{member.name!r} would lie outside the folder"}
    if member.issym() or member.islnk():
        # a symbolic link is relative to its own folder, a hard one to the top of the archive
        start = posixpath.dirname(member.name) if member.issym() else ""
        target = posixpath.join(start, member.linkname)
        places[target] = f"{member.name!r} is a link to {member.linkname!r}, outside the folder"
    for place, why in places.items():
        if posixpath.isabs(place) or posixpath.normpath(place).split("/")[0] == "..":
            return why
    return ""
