"""Builds wheel and sdist into dist/, twice; fails unless both builds, and a wheel of the sdist, are byte-identical.

    python scripts/build_release.py [FOLDER]

Times in the archives are that of the last commit, or SOURCE_DATE_EPOCH if set. Builds HEAD from a fresh clone, without
the changes of the working tree. Needs setuptools and PyYAML, and no network.
"""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: calls the build backend as pip would, in this environment
_BUILD = "import sys; from setuptools import build_meta\nprint(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")
    commit_time = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or commit_time.stdout)
    with tempfile.TemporaryDirectory() as work:
        first, second = (build(Path(work) / name, epoch) for name in ("first", "second"))
        for one, other in zip(first, second, strict=True):
            if one.read_bytes() != other.read_bytes():
                raise SystemExit(f"{one.name} differs between two builds of one commit")
        wheel, sdist = (next(file for file in first if file.suffix == suffix) for suffix in (".whl", ".gz"))
        unpacked = Path(work) / "unpacked"
        with tarfile.open(sdist) as archive:
            # the archive is our own; Python 3.11.2 has no filters yet
            archive.extractall(unpacked, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        (source,) = unpacked.iterdir()
        call("build_wheel", source, unpacked, epoch)
        if (unpacked / wheel.name).read_bytes() != wheel.read_bytes():
            raise SystemExit(f"the wheel built from {sdist.name} differs from that of the commit")
        target.mkdir(parents=True, exist_ok=True)
        for file in first:
            shutil.copyfile(file, target / file.name)
            print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {target / file.name}")


def build(folder: Path, epoch: int) -> list[Path]:
    """Wheel and sdist of HEAD, built in a clone of their own."""
    source, out = folder / "source", folder / "dist"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(source)], check=True)
    out.mkdir()
    for path in source.rglob("*"):  # fixed permissions: the archives would contain the user's umask
        if path.is_file() and not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    for hook in ("build_sdist", "build_wheel"):
        call(hook, source, out, epoch)
    (sdist,) = out.glob("*.tar.gz")
    settle(sdist, epoch)
    return sorted(out.iterdir())


def call(hook: str, source: Path, out: Path, epoch: int) -> None:
    """Calls the build backend as pip would."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", _BUILD, hook, str(out)]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def settle(sdist: Path, epoch: int) -> None:
    """Rewrites an archive sorted by name, with one time and no owner: setuptools keeps the builder's."""
    with tarfile.open(sdist) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        contents = {member.name: file.read() for member in members if (file := archive.extractfile(member))}
    with (
        sdist.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=epoch, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in members:
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.pax_headers = {}
            content = contents.get(member.name)
            archive.addfile(member, None if content is None else io.BytesIO(content))


if __name__ == "__main__":
    main()
