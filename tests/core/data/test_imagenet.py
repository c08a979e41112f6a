"""A development kit of three classes (and a parent that is none) and nine tiny photographs."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.models import ResNet18_Weights

from stillpoint.core.base.errors import UserError
from stillpoint.core.data import imagenet_validation as imagenet
from stillpoint.core.data.datasets import load, prepare

WNIDS = ("n02105855", "n01440764", "n02102040")
TRUTH = (2, 1, 3, 3, 2, 1, 1, 2, 3)
FORM = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]


def name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def photograph(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 8, 3), 20 * number, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def kit(folder: Path, truth=TRUTH, wnids=WNIDS) -> Path:
    (folder / "data").mkdir(parents=True)
    rows = [(k + 1, wnid, "words", 0) for k, wnid in enumerate(wnids)] + [(4, "n00000001", "a parent", 3)]
    synsets = np.array(rows, dtype=FORM)
    savemat(folder / "data" / "meta.mat", {"synsets": synsets})
    (folder / imagenet.TRUTH).write_text("".join(f"{k}\n" for k in truth))
    return folder


@pytest.fixture(autouse=True)
def nine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "COUNT", 9)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Flat photographs, an unpacked kit, and a training part with the three classes."""
    val = tmp_path / "imagenet" / "val"
    val.mkdir(parents=True)
    for number in range(1, 10):
        (val / name(number)).write_bytes(photograph(number))
    kit(tmp_path / imagenet.KIT)
    for wnid in WNIDS:
        (tmp_path / "imagenet" / "train" / wnid).mkdir(parents=True)
        (tmp_path / "imagenet" / "train" / wnid / "0.JPEG").write_bytes(photograph(1))
    return tmp_path


def pack(source: Path, target: Path, mode: str = "w") -> None:
    with tarfile.open(target, mode) as tar:
        for path in sorted(source.rglob("*") if source.is_dir() else [source]):
            if path.is_file():
                tar.add(path, f"{imagenet.KIT}/{path.relative_to(source)}" if "gz" in mode else path.name)


def folders(root: Path) -> dict[str, list[int]]:
    val = root / "imagenet" / "val"
    return {
        child.name: sorted(int(p.stem[-8:]) for p in child.iterdir())
        for child in sorted(val.iterdir())
        if child.is_dir()
    }


SORTED = {"n01440764": [1, 5, 8], "n02102040": [3, 4, 9], "n02105855": [2, 6, 7]}


def test_prepare_puts_every_photograph_into_the_folder_of_its_class(root: Path) -> None:
    told = json.loads(prepare("imagenet", root).read_text())
    assert told["images"] == {"train": 3, "val": 9} and told["classes"] == 3
    assert folders(root) == SORTED
    for wnid, numbers in SORTED.items():
        for number in numbers:
            assert (root / "imagenet" / "val" / wnid / name(number)).read_bytes() == photograph(number)


def test_the_classes_are_the_1000_of_every_network() -> None:
    classes = imagenet.classes()
    assert len(set(classes)) == 1000 and list(classes) == sorted(classes)
    # the places of the ten classes of Imagenette and of the first and the last in torchvision's list of names
    places = {
        "n02102040": 217,
        "n03445777": 574,
        "n02979186": 482,
        "n03000684": 491,
        "n03028079": 497,
        "n03394916": 566,
    }
    places |= {"n03417042": 569, "n03425413": 571, "n03888257": 701, "n01440764": 0, "n15075141": 999}
    assert {wnid: classes.index(wnid) for wnid in places} == places
    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    told = ("English springer", "golf ball", "cassette player", "chain saw", "church", "French horn", "garbage truck")
    told = (*told, "gas pump", "parachute", "tench", "toilet tissue")
    assert [names[place] for place in places.values()] == list(told)


def test_the_flat_files_stay_and_cost_no_second_copy(root: Path) -> None:
    prepare("imagenet", root)
    for number in range(1, 10):
        flat = root / "imagenet" / "val" / name(number)
        assert flat.read_bytes() == photograph(number) and flat.stat().st_nlink == 2


def test_a_second_call_changes_nothing(root: Path) -> None:
    marker = prepare("imagenet", root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert prepare("imagenet", root) == marker
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == times


def test_photographs_are_copied_where_links_are_impossible(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    prepare("imagenet", root)
    assert folders(root) == SORTED
    assert (root / "imagenet" / "val" / "n01440764" / name(1)).read_bytes() == photograph(1)


def test_an_interrupted_call_is_taken_up_by_the_next(root: Path) -> None:
    seen = []

    def stop(what: str, done: int, total: int) -> None:
        seen.append((done, total))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("imagenet", root, progress=stop)
    assert sum(map(len, folders(root).values())) == 4 and not (root / "prepared" / "imagenet.json").exists()
    again = []
    prepare("imagenet", root, progress=lambda what, done, total: again.append((done, total)))
    assert seen[-1] == (4, 9) and again[-1] == (5, 5) and folders(root) == SORTED


def test_the_archives_serve_as_they_were_fetched(root: Path) -> None:
    val = root / "imagenet" / "val"
    with tarfile.open(root / imagenet.ARCHIVE, "w") as tar:
        for number in range(1, 10):
            tar.add(val / name(number), name(number))
            (val / name(number)).unlink()
    folder = root / imagenet.KIT
    pack(folder, root / f"{imagenet.KIT}.tar.gz", "w:gz")
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    prepare("imagenet", root)
    assert folders(root) == SORTED and (root / imagenet.ARCHIVE).is_file()
    # finished folders beside the archive need no kit any more
    (root / f"{imagenet.KIT}.tar.gz").unlink()
    prepare("imagenet", root)


def test_missing_photographs_are_counted_and_named(root: Path) -> None:
    (root / "imagenet" / "val" / name(3)).unlink()
    with pytest.raises(UserError, match=r"1 of 9 validation photographs are missing \(ILSVRC2012_val_00000003.JPEG\)"):
        prepare("imagenet", root)
    assert sum(map(len, folders(root).values())) == 8
    (root / "imagenet" / name(3)).write_bytes(photograph(3))
    prepare("imagenet", root)
    assert folders(root) == SORTED


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda kit: (kit / imagenet.META).unlink(), "has no data/meta.mat"),
        (
            lambda kit: (kit / imagenet.META).write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 200),
            "meta.mat of .* is damaged",
        ),
        (lambda kit: (kit / imagenet.TRUTH).write_text("1\n2\n"), "has 2 lines, not 9"),
        (lambda kit: (kit / imagenet.TRUTH).write_text("4\n" * 9), "unknown class 4"),
        (lambda kit: (kit / imagenet.TRUTH).write_text("one\n" * 9), "is damaged"),
    ],
)
def test_a_damaged_kit_is_named(root: Path, damage, said: str) -> None:
    damage(root / imagenet.KIT)
    with pytest.raises(UserError, match=said):
        prepare("imagenet", root)


def test_a_missing_kit_is_asked_for(root: Path) -> None:
    (root / imagenet.KIT).rename(root / "elsewhere")
    with pytest.raises(UserError, match=r"development kit of ImageNet is not in .*put ILSVRC2012_img_val.tar"):
        prepare("imagenet", root)


def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path, root: Path) -> None:
    (root / imagenet.KIT).rename(root / "elsewhere")
    kit(root / imagenet.KIT, wnids=("../../escape", *WNIDS[1:]))
    with pytest.raises(UserError, match="is not an ImageNet class"):
        prepare("imagenet", root)


def test_a_photograph_in_the_wrong_folder_is_told(root: Path) -> None:
    (root / "imagenet" / "val" / "n02102040").mkdir()
    (root / "imagenet" / "val" / "n02102040" / name(1)).write_bytes(photograph(1))
    with pytest.raises(UserError, match="holds photograph 1, which is of n01440764, not of n02102040"):
        prepare("imagenet", root)


def test_a_torn_archive_is_named(root: Path) -> None:
    (root / imagenet.KIT).rename(root / "elsewhere")
    pack(root / "elsewhere", root / f"{imagenet.KIT}.tar.gz", "w:gz")
    whole = (root / f"{imagenet.KIT}.tar.gz").read_bytes()
    (root / f"{imagenet.KIT}.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"tar.gz is truncated or damaged"):
        prepare("imagenet", root)


def test_validation_images_alone_are_enough(root: Path) -> None:
    (root / "imagenet" / "train").rename(root / "elsewhere")
    told = json.loads(prepare("imagenet", root).read_text())
    assert told["images"] == {"val": 9} and told["classes"] == 3 and folders(root) == SORTED


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """Kaggle's copy as it is unpacked: training photographs in folders, flat ones, a solution, no development kit."""
    base = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    for wnid in WNIDS:
        (base / "train" / wnid).mkdir(parents=True)
        (base / "train" / wnid / f"{wnid}_1.JPEG").write_bytes(photograph(2))
    for part, numbers in (("val", range(1, 10)), ("test", range(1, 3))):
        (base / part).mkdir()
        for number in numbers:
            (base / part / name(number).replace("val", part)).write_bytes(photograph(number))
    rows = [f"ILSVRC2012_val_{number:08d},{WNIDS[truth - 1]} 1 2 3 4" for number, truth in enumerate(TRUTH, start=1)]
    rows[3] += f" {WNIDS[TRUTH[3] - 1]} 5 6 7 8"  # two of them on one photograph
    text = "\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n"
    (tmp_path / "LOC_val_solution.csv").write_text(text)
    return tmp_path


def files(root: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", [".", "imagenet"])
def test_kaggles_copy_is_labelled_by_its_solution_and_left_as_it_is(kaggle: Path, place: str) -> None:
    if place != ".":
        (kaggle / place).mkdir()
        for what in ("ILSVRC", "LOC_val_solution.csv"):
            (kaggle / what).rename(kaggle / place / what)
    before = files(kaggle)
    told = json.loads(prepare("imagenet", kaggle).read_text())
    assert told["images"] == {"train": 3, "val": 9} and folders(kaggle) == SORTED
    assert before.items() <= files(kaggle).items()
    train, val = (load("imagenet", kaggle, part) for part in ("train", "val"))
    assert [Path(path).parent.name for path in train.paths] == sorted(WNIDS)
    places = [imagenet.classes().index(wnid) for wnid in sorted(WNIDS)]
    assert train.labels.tolist() == places and val.labels.tolist() == [place for place in places for _ in range(3)]
    for number, truth in enumerate(TRUTH, start=1):
        assert (kaggle / "imagenet" / "val" / WNIDS[truth - 1] / name(number)).read_bytes() == photograph(number)


def test_kaggles_copy_is_taken_up_where_it_stopped(kaggle: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("imagenet", kaggle, progress=stop)
    again: list[tuple[int, int]] = []
    prepare("imagenet", kaggle, progress=lambda what, done, total: again.append((done, total)))
    assert again[-1] == (5, 5) and folders(kaggle) == SORTED


def test_photographs_on_another_disk_are_linked_on_request(kaggle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    prepare("imagenet", kaggle, links=True)
    linked = kaggle / "imagenet" / "val" / WNIDS[0] / name(2)
    assert linked.is_symlink() and linked.resolve() == kaggle / "ILSVRC" / "Data" / "CLS-LOC" / "val" / name(2)
    assert folders(kaggle) == SORTED and len(load("imagenet", kaggle, "val")) == 9
    # the disk came back under another name: what hangs in the air is linked anew
    linked.unlink()
    linked.symlink_to(kaggle / "gone.JPEG")
    prepare("imagenet", kaggle, links=True)
    assert linked.read_bytes() == photograph(2)
    with pytest.raises(UserError, match="no photographs to link: leave out --links"):
        prepare("digits", kaggle, links=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("PredictionString", "Label"), "its columns are not ImageId and PredictionString"),
        (lambda text: text.replace("n02105855", "n99999999"), "does not name a photograph and its class"),
        (lambda text: text + "ILSVRC2012_val_00000001,n02105855 1 2 3 4\n", "ILSVRC2012_val_00000001 has two classes"),
        (lambda text: text.replace(" 5 6 7 8", " 5").replace("n02102040 5", "n02105855 5"), "not name a photograph"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "lists 8 photographs, not exactly those from 1 to 9"),
        (lambda text: text.replace("_00000009", "_00000010"), "lists 9 photographs, not exactly those from 1 to 9"),
        (lambda text: text[:30] + "\0" + text[30:], "is damaged"),
        (lambda text: "", "is damaged"),
    ],
)
def test_a_damaged_solution_is_named(kaggle: Path, change, said: str) -> None:
    path = kaggle / "LOC_val_solution.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=said):
        prepare("imagenet", kaggle)
    assert folders(kaggle) == {} if (kaggle / "imagenet" / "val").is_dir() else True


def test_without_a_kit_and_a_solution_both_are_named(kaggle: Path) -> None:
    (kaggle / "LOC_val_solution.csv").unlink()
    with pytest.raises(UserError, match=r"or Kaggle's folder ILSVRC and LOC_val_solution\.csv"):
        prepare("imagenet", kaggle)
