"""The transfers of `scripts/gpu_check.py`: the upload, and the runs (in pieces) and measurements that come back."""

import csv
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: largest upload in bytes: code, data and wheels
CARRIED = 64 << 20
#: largest piece of the archive of runs in bytes, and largest number of pieces
PIECE, PIECES = 15 << 20, 4
#: overhead of the archive in bytes: of each file, three headers and the padding of its last block; and of its end
EACH, END = 2048, 10_240


def archives(data: Path) -> list[Path]:
    """The files of CIFAR-10 in `data`, as they are packed or as folders; [] if there are none."""
    named = (data / "cifar-10-python.tar.gz", data / "cifar-10-batches-py", data / "cifar10")
    found = [path for path in (*named, *sorted(data.glob("cifar10-jpeg.tar*"))) if path.exists()]
    return [file for path in found for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]


def carried(root: Path, data: Path, source: Path | None) -> Iterator[tuple[str, int]]:
    """(name, bytes) of everything uploaded to the GPU machine; `source` is an earlier call's output."""
    wheels = sorted(Path(os.environ["WHEELS"]).glob("*.whl")) if os.environ.get("WHEELS") else []
    images = archives(data)
    earlier = [path for path in source.glob("*") if path.is_file()] if source else []
    if (root / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True)
        files = [root / name for name in listed.stdout.splitlines() if not name.startswith(".dvc-store/")]
    else:
        # a copy without its repository: what was carried, except what is counted below or was made here
        others = {path.resolve() for path in (*images, *wheels, *earlier)}
        made = {"__pycache__", "data", ".dvc-store"}
        files = [path for path in root.rglob("*") if not made & set(path.relative_to(root).parts)]
        files = [path for path in files if path.resolve() not in others]
    yield "code, without the store", sum(path.stat().st_size for path in files if path.is_file())
    yield "CIFAR-10 as it is packed", sum(path.stat().st_size for path in images)
    if wheels:
        yield "wheels", sum(path.stat().st_size for path in wheels)
    if source:
        yield "runs of the earlier call", sum(path.stat().st_size for path in earlier)


def revision(root: Path) -> str:
    """The commit in the form of $STILLPOINT_COMMIT, which is for a copy without its repository; there, its value."""
    if not (root / ".git").exists():
        return os.environ.get("STILLPOINT_COMMIT", "")
    commands = (("rev-parse", "HEAD"), ("status", "--porcelain"))
    commit, changes = (
        subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        for words in commands
    )
    return f"{commit}{'-dirty' if changes else ''}"


def progress(run: Path) -> dict[str, Any]:
    """The number of trained epochs of a run, whether it was evaluated, and the last row of its history."""
    history = run / "history.csv"
    rows = list(csv.DictReader(history.read_text().splitlines())) if history.is_file() else []
    return {"epochs": len(rows), "measured": (run / "metrics.json").is_file(), "last": rows[-1] if rows else None}


def pack(out: Path, runs: Mapping[Path, Path]) -> dict[str, Any]:
    """Archives runs (run -> its results folder) into pieces in `out`, finished ones first, as many as fit.

    Returns the digests of the pieces, and the runs that were left out."""
    archive, left_out, packed = io.BytesIO(), [], 0
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for run in sorted(runs, key=lambda run: (not (run / "metrics.json").is_file(), str(run))):
            files = [path for path in sorted(run.rglob("*")) if path.is_file() and _travels(path)]
            if archive.tell() + sum(path.stat().st_size + EACH for path in files) + END > PIECE * PIECES:
                left_out.append(str(run.relative_to(runs[run])))
                continue
            for path in files:
                tar.add(path, path.relative_to(runs[run]).as_posix())
            packed += len(files)
    content, names = archive.getvalue(), {}
    for old in out.glob("runs.tar.*"):
        old.unlink()
    for number in range(0, len(content) if packed else 0, PIECE):
        piece = out / f"runs.tar.{number // PIECE:02d}"
        piece.write_bytes(content[number : number + PIECE])
        names[piece.name] = hashlib.sha256(piece.read_bytes()).hexdigest()
    return {"pieces": names, "left_out": left_out}


def _travels(path: Path) -> bool:
    # a finished run needs no state, and no run the state before its last
    finished = (path.parent / "metrics.json").is_file()
    return not path.name.startswith(".") and ".previous." not in path.name and not (finished and path.suffix == ".pt")


def unpack(source: Path, target: Path) -> list[str]:
    """Extracts the runs of an earlier call into `target` and returns their names; `SystemExit` if a piece is missing or
    damaged, or if a run already exists."""
    pieces, content = _summary(source)["runs"]["pieces"], b""
    for name, expected in sorted(pieces.items()):
        path = source / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise SystemExit(f"{path} is missing or damaged: nothing was unpacked")
        content += path.read_bytes()
    if not content:
        return []
    # Python 3.11.2 has no filters of tarfile yet: regular files alone, inside `target`
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
        for member in members:
            if not member.isfile() or not (target / member.name).resolve().is_relative_to(target.resolve()):
                raise SystemExit(f"{source} holds {member.name!r}, which is not a file of a run: nothing was unpacked")
        runs = sorted({"/".join(member.name.split("/")[:4]) for member in members})
        if there := [run for run in runs if (target / run).exists()]:
            raise SystemExit(f"{target / there[0]} already exists: nothing was unpacked")
        for member in members:
            place, file = target / member.name, tar.extractfile(member)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read() if file else b"")
    return runs


def unpack_measurements(source: Path, target: Path) -> list[Path]:
    """Writes an earlier call's measurements of layers and networks as files like those in benchmarks/results/."""
    about = _summary(source)
    layers, networks = (about["parts"].get(name, {}).get("found") for name in ("layers", "network"))
    paths = []
    for subject, content in {**(layers or {}), **({"network": networks} if networks else {})}.items():
        target.mkdir(parents=True, exist_ok=True)
        paths.append(target / f"{subject}-{'toy' if about['toy'] else 'cuda'}.json")
        paths[-1].write_text(json.dumps(content, indent=2) + "\n")
    return paths


def _summary(source: Path) -> dict[str, Any]:
    path = source / "summary.json"
    if not path.is_file():
        raise SystemExit(f"{source} is not the output of an earlier call: it has no {path.name}")
    try:
        about = json.loads(path.read_text())
        if all(isinstance(about[key], dict) for key in ("parts", "runs")) and isinstance(about["runs"]["pieces"], dict):
            return about
    except (ValueError, KeyError, TypeError):
        pass
    raise SystemExit(f"{path} is damaged: nothing was unpacked")
