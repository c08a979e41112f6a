"""Files that would run something if they were read carelessly: each would make a file, and none may."""

import gzip
import io
import os
import pickle
import shutil
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import read_recipe
from stillpoint.core.data.datasets import load, prepare
from stillpoint.core.data.formats import decode_image, read_pickled_batch
from stillpoint.core.runs.checkpoint import load_state, read_tensors, save_state
from stillpoint.core.runs.layout import Run
from stillpoint.pipelines.commands.base import run_config
from tests.faults.children import Count


class Trap:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _archive(path: Path, name: str, *, link: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    Image.new("RGB", (32, 32)).save(picture, "png")
    with tarfile.open(path, "w:xz") as archive:
        member = tarfile.TarInfo(name)
        if link is None:
            member.size = picture.tell()
            picture.seek(0)
            archive.addfile(member, picture)
        else:
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)
    return path


def attempts(place: Path, trap: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """(what is offered as what, the reading of it); `trap` is the folder that each would make."""
    bomb = pickle.dumps(Trap(trap), protocol=2)

    for protocol in (0, 2, 4):
        raw = place / f"protocol{protocol}.pt"
        raw.write_bytes(pickle.dumps(Trap(trap), protocol=protocol))
        yield f"pickle of protocol {protocol} as weights", lambda raw=raw: read_tensors(raw)
        yield f"pickle of protocol {protocol} as state", lambda raw=raw: load_state(raw)
    for zipped in (True, False):
        path = place / f"wrapped{zipped}.pth"
        torch.save({"state_dict": Trap(trap)}, path, _use_new_zipfile_serialization=zipped)
        yield f"torch file (zip: {zipped}) as weights", lambda path=path: read_tensors(path)
    signed = place / "signed.pt"
    save_state(signed, {"epoch": Trap(trap)})
    yield "state with the right digest", lambda: load_state(signed)

    yield "pickle as a CIFAR batch", lambda: read_pickled_batch(bomb, "data_batch_1")
    hidden = pickle.dumps({b"data": Trap(trap), b"labels": [0]}, protocol=2)
    yield "pickle inside a CIFAR batch", lambda: read_pickled_batch(hidden, "data_batch_1")
    batches = place / "batches" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        (batches / name).write_bytes(bomb)
    yield "pickles as the folder of CIFAR-10", lambda: prepare("cifar10", place / "batches")
    arrays = place / "arrays" / "CIFAR-10-C"
    arrays.mkdir(parents=True)
    np.save(arrays / "fog.npy", np.array([Trap(trap)], dtype=object), allow_pickle=True)
    np.save(arrays / "labels.npy", np.zeros(5, np.uint8))
    yield "objects in a .npy of images", lambda: load("cifar10_c", place / "arrays", "fog/1")
    (arrays / "snow.npy").write_bytes(bomb)
    yield "pickle as a .npy of images", lambda: load("cifar10_c", place / "arrays", "snow/1")
    other = place / "labels" / "CIFAR-10-C"
    other.mkdir(parents=True)
    np.save(other / "fog.npy", np.zeros((5, 32, 32, 3), np.uint8))
    np.save(other / "labels.npy", np.array([Trap(trap)] * 5, dtype=object), allow_pickle=True)
    yield "objects in a .npy of labels", lambda: load("cifar10_c", place / "labels", "fog/1")
    decoded = place / "decoded" / "prepared" / "fashion_mnist.safetensors"
    decoded.parent.mkdir(parents=True)
    decoded.write_bytes(bomb)
    yield "pickle as decoded images", lambda: load("fashion_mnist", place / "decoded")

    told = f"!!python/object/apply:os.mkdir ['{trap}']"
    for name, text in (("settings", told), ("key", f"TRAIN: {told}"), ("value", f"TRAIN: {{LR: {told}}}")):
        recipe = place / f"{name}.yaml"
        recipe.write_text(f"{text}\n")
        yield f"YAML that calls, as {name}", lambda recipe=recipe: read_recipe(recipe, pipelines.schema("aps"))
    run = Run("aps", "digits", "resnet20", 0, place / "results")
    run.folder.mkdir(parents=True)
    run.config.write_text(f"TITLE: {told}\n")
    yield "YAML that calls, as a run's configuration", lambda: run_config(run, [])
    for text in (f"__import__('os').mkdir('{trap}')", f"[__import__('os').mkdir('{trap}')]"):
        for key in ("TRAIN.LR", "TRAIN.MILESTONES", "DATA.NAME"):
            yield (
                f"KEY VALUE pair {key} {text[:12]}...",
                lambda key=key, text=text: pipelines.configure("aps/resnet20", "digits", [key, text]),
            )

    inside = "train/cat/0.png"
    for name in (f"../../{inside}", f"/{trap}/{inside}", f"train/../../../{trap.name}/{inside}"):
        root = place / f"archive{abs(hash(name))}"
        _archive(root / "cifar10-jpeg.tar.xz", name)
        yield f"archive member {name[:14]}...", lambda root=root: prepare("cifar10", root)
    for link in ("/etc/passwd", "../../../outside"):
        root = place / f"link{abs(hash(link))}"
        _archive(root / "cifar10-jpeg.tar.xz", "train/cat", link=link)
        yield f"archive with a link to {link}", lambda root=root: prepare("cifar10", root)


def absurd(place: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Files that claim, or unpack to, more than there may be, and files that are not what their names say."""
    place = place / "absurd"
    photo = place / "photo.jpg"
    place.mkdir()
    Image.new("RGB", (8, 8)).save(photo, "EPS")
    yield "PostScript as a photograph", lambda: decode_image(photo, str(photo))
    for name, head in (
        ("no", b"\0\0\x08\0"),
        ("many", b"\0\0\x08\xff" + bytes(1020)),
        ("huge", b"\0\0\x08\1\xff\xff\xff\xff"),
    ):
        raw = place / name / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            for kind in ("images-idx3", "labels-idx1"):
                (raw / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + bytes(1 << 20)))
        yield f"IDX of {name} dimensions", lambda name=name: prepare("fashion_mnist", place / name)
    for name, pax in (("bomb", {}), ("sparse", {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,512"})):
        packed = place / name / "cifar10-jpeg.tar.xz"
        packed.parent.mkdir()
        with tarfile.open(packed, "w:xz", format=tarfile.PAX_FORMAT) as archive:
            member = tarfile.TarInfo("train/cat/0.jpg")
            member.size, member.pax_headers = (512 if pax else 32 << 20), pax
            archive.addfile(member, io.BytesIO(bytes(member.size)))
        yield f"archive that is a {name}", lambda packed=packed: prepare("cifar10", packed.parent)
    arrays = place / "CIFAR-10-C"
    arrays.mkdir()
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 32, 32, 3)}\n"
    for file in ("fog.npy", "labels.npy"):
        (arrays / file).write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    yield ".npy that claims petabytes", lambda: load("cifar10_c", place, "fog/1")


def hostile() -> Count:
    """Every attempt once: survived where nothing ran, nothing was written outside, and a sentence refused it."""
    place = Path(tempfile.mkdtemp(prefix="faults-hostile-"))
    trap, count = place / "sprung", Count("hostile files")
    try:
        for what, read in chain(attempts(place, trap), absurd(place)):
            try:
                read()
                problem: str | None = "it was accepted"
            except UserError as error:
                problem = "the refusal has several lines" if "\n" in str(error) else None
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            if trap.exists():
                problem = "it was executed"
                trap.rmdir()
            count.add(what, problem)
    finally:
        shutil.rmtree(place)
    return count
