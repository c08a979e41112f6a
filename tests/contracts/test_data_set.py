"""A data set is one file and its recipes: a toy comes to a cell of a table, and no other file is changed for it."""

import ast
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stillpoint import pipelines
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import DATASETS, DatasetInfo, dataset, takes
from stillpoint.core.data.contract import Dataset
from tests import fresh
from tests.test_readme import TEXTS, blocks

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "core" / "data" / "sources"
OWN = "core/data/sources/stripes.py"
#: the page's own code and recipe: stripes that lie or stand
TOY = next(block for block in blocks(TEXTS["docs/extending.md"], "python") if OWN in block)
(RECIPE,) = blocks(TEXTS["docs/extending.md"], "yaml")
NEW = {OWN: TOY, "pipelines/aps/configs/stripes.yaml": RECIPE}


def digests(folder: Path) -> dict[str, str]:
    """Name -> digest of each file below `folder` that Python does not keep for itself."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("core", "pipelines")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with the toy's two files in it."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("core", "pipelines", "stillpoint"):
        shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in NEW.items():
        (folder / name).write_text(text)
    parts = {}
    for part, count in (("train", 40), ("test", 12)):
        labels = np.arange(count, dtype=np.int64) % 2
        rows = 255 * np.random.RandomState(count).randint(0, 2, (count, 16, 1)).repeat(16, 2)
        images = np.where(labels[:, None, None] == 1, rows.transpose(0, 2, 1), rows)
        parts |= {f"{part}_images": images[:, None].astype(np.uint8), f"{part}_labels": labels}
    (folder / "data").mkdir()
    np.savez(folder / "data" / "stripes.npz", **parts)
    return folder


def run(copy: Path, *words: str) -> str:
    own = {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = fresh.run(["-m", "stillpoint", *words], cwd=copy, env={**os.environ, **own})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def test_a_toy_data_set_comes_to_a_cell_of_a_table_and_nothing_else_changes(copy: Path) -> None:
    assert "Stripes is ready (40 train, 12 test)" in " ".join(run(copy, "prepare", "stripes", "--root", "data").split())
    run(copy, "train", "aps/resnet20", "--recipe", "stripes", "--data", "data", "--device", "cpu")
    folder = "results/aps/stripes/resnet20/seed0"
    assert "12 images of Stripes" in run(copy, "evaluate", folder, "--data", "data", "--device", "cpu")
    run(copy, "table", "aps", "--recipe", "stripes")
    measured = json.loads((copy / folder / "metrics.json").read_text())
    with (copy / "results/aps/stripes/table.csv").open(newline="") as file:
        cells = {(row["state"], row["metric"]): float(row["mean"]) for row in csv.DictReader(file)}
    assert measured["dataset"] == "Stripes" and measured["images"] == 12
    assert cells["trained", "accuracy"] == pytest.approx(100 * measured["trained"]["accuracy"])
    assert "Stripes" in (copy / "results/aps/stripes/table.md").read_text()
    before, after = digests(ROOT), digests(copy)
    assert {name for name in after if after[name] != before.get(name)} == set(NEW) and before.keys() <= after.keys()


def test_what_a_toy_lacks_is_told_as_of_any_other(copy: Path) -> None:
    own = {"PYTHONPATH": str(copy)}
    for words, said in (
        (["prepare", "stripe"], "nearest: stripes"),
        (["prepare", "stripes", "--links", "--root", "data"], "Stripes has no photographs to link"),
        (["show-config", "aps/resnet101_aps3", "--recipe", "stripes"], "does not support stripes, only imagenet"),
        (["show-config", "aps/resnet20", "--recipe", "stripes", "DATA.MEAN", "[0,0,0]"], "stripes has channels: 1"),
    ):
        done = fresh.run(["-m", "stillpoint", *words], cwd=copy, env={**os.environ, **own})
        assert done.returncode == 2 and said in " ".join(done.stderr.split())


def test_a_network_takes_what_it_is_made_for_and_what_is_like_that() -> None:
    assert takes(("cifar10",), "cifar10") and takes(("cifar10",), "tiny_imagenet") and not takes(("digits",), "cifar10")
    assert takes((), "imagenet") and not takes((), "voc2012") and not takes((), "fastmri")
    with pytest.raises(UserError, match="does not support digits_segmentation, only classes"):
        pipelines.create("sdnet/resnet18", dataset="digits_segmentation")


def test_every_file_is_a_data_set_of_its_name() -> None:
    files = {path.stem for path in SOURCES.glob("*.py") if not path.stem.startswith("_")}
    assert files == set(DATASETS) and len(files) >= 12
    for name in DATASETS:
        found = dataset(name)
        assert isinstance(found, Dataset) and isinstance(found.info, DatasetInfo)
        assert found.info is DATASETS[name] and found.info.name == name and found.info.title and found.info.files
        assert len(found.info.mean) == len(found.info.std) == found.info.channels
        assert not found.info.streaming or found.info.resize >= found.info.size
        assert not found.info.pairs or not found.info.num_classes


def test_the_entries_of_all_data_sets_are_read_without_torch() -> None:
    program = (
        "import sys\n"
        "from stillpoint.core.config.catalogue import DATASETS, info\n"
        "assert 'cifar10' in DATASETS and 'numpy' not in sys.modules, 'the names alone need no data set'\n"
        "assert all(info(name).title for name in DATASETS)\n"
        "assert not {'torch', 'scipy', 'sklearn', 'torchvision'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_core_asks_no_data_set_for_its_name() -> None:
    """What a data set needs of its own is in its file: no comparison in core is with the name of one."""
    guilty = []
    for path in (ROOT / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                named = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)} & {*DATASETS}
                about = ast.unparse(node.left) + "".join(ast.unparse(part) for part in node.comparators)
                if named and ("name" in about or "dataset" in about):
                    guilty.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert not guilty
