"""Files that would run something if they were read carelessly: each would make a file, and none may."""

import gzip
import io
import os
import pickle
import shutil
import struct
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.merge import merge, read_recipe
from stillpoint.core.data.datasets import load, prepare
from stillpoint.core.data.formats import decode_image, read_pickled_batch
from stillpoint.core.reporting.reading import read_metrics, read_training
from stillpoint.core.runs.checkpoint import load_state, load_weights, read_tensors, save_state
from stillpoint.core.runs.layout import Run
from stillpoint.core.runs.records import read_history
from stillpoint.pipelines.commands.base import run_config
from tests.faults.children import Count

#: lists without end, each of which takes twenty times its letters of memory
_LISTS = f"[{'[],' * 10_000_000}[]]"


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
        yield f"YAML that calls, as {name}", lambda recipe=recipe: read_recipe(recipe, pipelines.paper("aps").schema())
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
    long = tarfile.TarInfo("long")
    long.type, long.size = tarfile.XHDTYPE, 20
    holes = tarfile.TarInfo("train/cat/0.jpg")
    holes.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    for name, content in (
        ("headers of headers", (long.tobuf() + b"20 comment=aaaaaaaa\n".ljust(512, b"\0")) * 900),
        ("holes without a map", holes.tobuf(tarfile.PAX_FORMAT) + bytes(1024)),
    ):
        packed = place / name / "cifar10-jpeg.tar"
        packed.parent.mkdir()
        packed.write_bytes(content)
        yield f"archive of {name}", lambda packed=packed: prepare("cifar10", packed.parent)
    with (place / "state.pt").open("wb") as file:
        file.truncate(1 << 40)
    yield "a state of a terabyte of holes", lambda: load_state(place / "state.pt")
    arrays = place / "CIFAR-10-C"
    arrays.mkdir()
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 32, 32, 3)}\n"
    for file in ("fog.npy", "labels.npy"):
        (arrays / file).write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    yield ".npy that claims petabytes", lambda: load("cifar10_c", place, "fog/1")


def endless(place: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Files that would take minutes or for ever, and those that mean two things at once."""
    itself: dict[str, object] = {"epoch": 1}
    itself["state_dict"] = {"model": itself}
    torch.save(itself, place / "itself.pth")
    yield "a checkpoint that holds itself", lambda: read_tensors(place / "itself.pth")
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    twice = {**net.state_dict(), "module.0.weight": torch.zeros(2, 2)}
    torch.save(twice, place / "twice.pth")
    save_file(twice, place / "twice.safetensors")
    for name in ("twice.pth", "twice.safetensors"):
        yield f"two names that would become one, {name}", lambda name=name: load_weights(net, place / name)
    torch.save({0: torch.ones(1)}, place / "numbers.pth")
    yield "names that are numbers", lambda: read_tensors(place / "numbers.pth")
    for number, about in enumerate(("[]", "[" * 100_000, '{"epoch": 1e999}')):
        path = place / f"about{number}.safetensors"
        save_file(net.state_dict(), path, {"stillpoint": about})
        yield f"metadata {about[:20]}", lambda path=path: read_tensors(path)
    torch.save(net.state_dict() | {"0.weight": torch.zeros(1 << 20)}, place / "whole.pth")
    with zipfile.ZipFile(place / "whole.pth") as whole, zipfile.ZipFile(place / "bomb.pth", "w", 8) as packed:
        for member in whole.namelist():
            packed.writestr(member, whole.read(member))
    yield "a checkpoint that was packed", lambda: read_tensors(place / "bomb.pth")
    infinite = {name: tensor / 0 for name, tensor in net.state_dict().items()}
    save_file(infinite, place / "infinite.safetensors")
    yield "weights that are not finite", lambda: load_weights(net, place / "infinite.safetensors")

    laughs = "A0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"A{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    texts = {
        "aliases of aliases": laughs,
        "an alias that holds itself": "TRAIN: &a {LR: *a}\n",
        "depth": "TITLE: " + "[" * 5000 + "]" * 5000,
        "a number of a million digits to the base 60": "SEED: 1" + ":1" * 1_000_000,
        "a tagged number to the base 60": f"SEED: !!int '1{':1' * 1_000_000}'\n",
        "a date that is none": "TITLE: !!timestamp 99-99\n",
        "a key twice": "TITLE: a\nTITLE: b\n",
        "keys that are numbers": "1: 2\nTRAIN: {3: 4}\n",
        "a section that is a list": "TRAIN: [1]\n",
        "an infinite rate": "TRAIN: {LR: .inf}\n",
    }
    schema = pipelines.paper("aps").schema()
    for number, (what, text) in enumerate(texts.items()):
        run = Run("aps", "digits", "resnet20", number, place / "endless")
        run.folder.mkdir(parents=True)
        run.config.write_text(text)
        yield f"{what}, as a recipe", lambda run=run: merge(schema, [read_recipe(run.config, schema)])
        yield f"{what}, as a run's configuration", lambda run=run: run_config(run, [])
    for text in ("[" * 5000 + "]" * 5000, "-" * 50_000 + "1", "1e999", "nan", "9" * 6000):
        pair = ["TRAIN.LR", text]
        yield f"KEY VALUE pair {text[:8]}...", lambda pair=pair: pipelines.configure("aps/resnet20", "digits", pair)
    run = Run("aps", "digits", "resnet20", 0, place / "numbers")
    run.folder.mkdir(parents=True)
    for text in (
        '{"trained": {"accuracy": NaN}}',
        '{"trained": {"accuracy": "1"}}',
        '{"trained": []}',
        "[" * 100_000,
        _LISTS,
    ):
        for path, read in ((run.metrics, read_metrics), (run.training, read_training)):
            yield (
                f"{text[:30]} as {path.name}",
                lambda path=path, text=text, read=read: (path.write_text(text), read(run)),
            )
    for text in ("epoch,lr\nnan,1\n", "epoch,lr\n1\n", "epoch,lr\n1,1e999\n", "epoch,epoch\n1,1\n", "lr\n1\n"):
        yield f"{text!r} as a history", lambda text=text: (run.history.write_text(text), read_history(run.history))


#: seconds that the refusal of any file may take
AT_ONCE = 5.0


def hostile() -> Count:
    """Every attempt once: survived where nothing ran, nothing was written outside, and a sentence refused it."""
    place = Path(tempfile.mkdtemp(prefix="faults-hostile-"))
    trap, count = place / "sprung", Count("hostile files")
    try:
        for what, read in chain(attempts(place, trap), absurd(place), endless(place)):
            began = time.monotonic()
            try:
                read()
                problem: str | None = "it was accepted"
            except UserError as error:
                problem = "the refusal has several lines" if "\n" in str(error) else None
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            if problem is None and time.monotonic() - began > AT_ONCE:
                problem = f"it took {time.monotonic() - began:.0f} s to refuse"
            if trap.exists():
                problem = "it was executed"
                trap.rmdir()
            count.add(what, problem)
    finally:
        shutil.rmtree(place)
    return count
