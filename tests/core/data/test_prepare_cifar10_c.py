"""``stillpoint prepare cifar10_c``: made from CIFAR-10 where that is, and never over the published files."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stillpoint.core.base.errors import UserError
from stillpoint.core.data.cifar import CIFAR10_CLASSES
from stillpoint.core.data.corruptions import NAMES, corrupt
from stillpoint.core.data.datasets import load, prepare
from stillpoint.core.data.sets import evenly


@pytest.fixture
def clean(tmp_path):
    """A root with CIFAR-10 as pictures, one of each class, and its test pictures (10, 32, 32, 3)."""
    from PIL import Image

    pictures = np.random.RandomState(0).randint(0, 256, (10, 32, 32, 3)).astype(np.uint8)
    for part in ("train", "test"):
        shown = pictures if part == "test" else 255 - pictures
        for name, picture in zip(CIFAR10_CLASSES, shown, strict=True):
            folder = tmp_path / "cifar10" / part / name
            folder.mkdir(parents=True)
            Image.fromarray(picture).save(folder / "0000.png")
    return tmp_path, pictures


def test_it_is_made_from_the_test_images_and_says_so(clean):
    root, pictures = clean
    told = []
    found = json.loads(prepare("cifar10_c", root, progress=lambda *words: told.append(words)).read_text())
    assert found["images"] == dict.fromkeys(sorted(NAMES), 50)
    assert "generated with seed 0; frost is a computed texture" in found["title"]
    assert {name for name, _, _ in told} >= set(NAMES)
    for name, severity in (("fog", 2), ("gaussian_noise", 5)):
        split = load("cifar10_c", root, f"{name}/{severity}")
        assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), corrupt(pictures, name, severity))
        assert split.labels.tolist() == list(range(10))
    times = {path: path.stat().st_mtime_ns for path in (root / "CIFAR-10-C").glob("*.npy")}
    prepare("cifar10_c", root)
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_published_files_are_read_as_they_are_and_nothing_is_added(clean):
    root, _ = clean
    folder = root / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", np.random.RandomState(1).randint(0, 256, (20, 32, 32, 3), np.uint8))
    np.save(folder / "labels.npy", np.tile(np.arange(4, dtype=np.uint8), 5))
    found = json.loads(prepare("cifar10_c", root).read_text())
    assert found["images"] == {"fog": 20} and found["title"] == "CIFAR-10-C"
    assert found["incomplete"] == "it has 4 of 10,000 images"
    assert sorted(path.name for path in folder.iterdir()) == ["fog.npy", "labels.npy"]


def test_without_either_the_error_names_both(tmp_path):
    with pytest.raises(UserError, match=r"unpack CIFAR-10-C\.tar .* or put CIFAR-10 into .*then run"):
        prepare("cifar10_c", tmp_path)


def test_an_even_choice_reaches_through_the_whole_set():
    assert evenly(10, 3).tolist() == [0, 3, 6]
    assert evenly(4, None).tolist() == evenly(4, 4).tolist() == evenly(4, 9).tolist() == [0, 1, 2, 3]


WAITING = """
import multiprocessing, time
from pathlib import Path
import numpy as np
from stillpoint.core.data.corruptions.prepare import prepare_cifar10_c

def told(name, done, total):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)

images = np.zeros((501, 32, 32, 3), np.uint8)
prepare_cifar10_c(images, np.zeros(501), Path("made"), ["brightness", "contrast"], workers=2, progress=told)
"""


def _runs(worker: int) -> bool:
    """Whether a process is there and has not ended; one that has may still wait for its last parent to look at it."""
    try:
        return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_maker_that_is_killed_leaves_no_worker_behind(tmp_path):
    home = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=tmp_path, env=os.environ | {"PYTHONPATH": home}, stdout=subprocess.PIPE
    ) as maker:
        workers = [int(word) for word in maker.stdout.readline().split()]
        maker.kill()
    assert len(workers) == 2
    end = time.monotonic() + 20
    while left := [worker for worker in workers if _runs(worker)]:
        assert time.monotonic() < end, f"{left} are still there"
        time.sleep(0.05)
