import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from hashlib import md5
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.files import digest
from stillpoint.core.config.catalogue import DATASETS, data_root
from stillpoint.core.data import cifar
from stillpoint.core.data.datasets import ImageSet, load, prepare, split_indices
from stillpoint.core.data.judging import set_digest
from stillpoint.core.data.sets import sample
from stillpoint.core.data.sources import fashion_mnist
from stillpoint.core.data.sources.digits import enlarge_digits
from stillpoint.core.data.stored import cache_path
from tests.core.data.conftest import load_images


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys; import stillpoint.core.config.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_data_root_is_the_argument_then_the_environment_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STILLPOINT_DATA", raising=False)
    assert data_root() == Path("data")
    monkeypatch.setenv("STILLPOINT_DATA", "/somewhere")
    assert data_root() == Path("/somewhere") and data_root("here") == Path("here")


def test_the_cifar_split_is_the_papers() -> None:
    train, val = split_indices(50_000, 5_000)
    assert train[:4].tolist() == [11841, 19602, 45519, 25747] and val[:4].tolist() == [43726, 16118, 49381, 35715]
    assert len(train) == 45_000 and sorted([*train, *val]) == list(range(50_000))


def test_other_splits() -> None:
    train, val = split_indices(10, 3, "first")
    assert val.tolist() == [0, 1, 2] and train.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert split_indices(10, 0)[0].tolist() == list(range(10)) and len(split_indices(10, 0)[1]) == 0
    assert not np.array_equal(split_indices(50, 5, seed=1)[0], split_indices(50, 5)[0])
    for wrong in (-1, 10):
        with pytest.raises(UserError, match=f"{wrong} validation images cannot be held out: choose from 0 to 9"):
            split_indices(10, wrong)


def test_digits_are_a_bilinear_enlargement_on_a_black_canvas() -> None:
    digits = np.random.RandomState(0).randint(0, 17, (20, 8, 8))
    ours = enlarge_digits(digits)
    assert ours.shape == (20, 1, 32, 32) and ours.dtype == np.uint8
    large = functional.interpolate(torch.tensor(digits)[:, None].double() * 255 / 16, size=24, mode="bilinear")
    assert (torch.from_numpy(ours[:, :, 4:28, 4:28]).double() - large).abs().max() <= 0.5 + 1e-9
    assert ours.sum() == ours[:, :, 4:28, 4:28].sum()
    assert enlarge_digits(np.full((1, 8, 8), 16)).max() == 255


def test_digits_have_fixed_stratified_parts_and_the_statistics_of_the_catalogue(tmp_path: Path) -> None:
    whole, test = load_images("digits", tmp_path, "train", val_size=0), load_images("digits", tmp_path, "test")
    assert (len(whole), len(test)) == (1437, 360) and whole.images.shape[1:] == (1, 32, 32)
    share = torch.bincount(test.labels) / (torch.bincount(test.labels) + torch.bincount(whole.labels))
    assert (share - 0.2).abs().max() < 0.005
    scaled = whole.images.double() / 255
    assert (scaled.mean() - whole.mean[0]).abs() < 5e-5 and (scaled.std(correction=0) - whole.std[0]).abs() < 5e-5
    train, val = load_images("digits", tmp_path, "train"), load_images("digits", tmp_path, "val")
    assert (len(train), len(val)) == (1300, 137)
    assert len({tuple(i.flatten().tolist()) for i in torch.cat([train.images, val.images])}) > 1400
    # the bytes are the same on every machine
    assert whole.digest == "21b226509f70dbca5eb986dfde0adba760d6d7b1994755931f1e872acc7a6699"


def test_fashion_mnist_is_read_as_published(fashion) -> None:
    root, images, labels = fashion
    train = load_images("fashion_mnist", root, "train", val_size=0)
    assert np.array_equal(train.images[:, 0].numpy(), images) and np.array_equal(train.labels.numpy(), labels)
    assert train.images.dtype == torch.uint8 and train.labels.dtype == torch.int64
    assert len(load_images("fashion_mnist", root, "test")) == 4
    held = load_images("fashion_mnist", root, "val", val_size=5)
    assert torch.equal(held.images, train.images[torch.from_numpy(split_indices(12, 5)[1])])


def test_the_first_images_of_a_copy_in_class_folders_are_the_first_of_each_class(monkeypatch) -> None:
    ordered = torch.arange(10).repeat_interleave(6)

    def held_out(labels: torch.Tensor, size: int) -> dict[str, list[int]]:
        numbers = torch.arange(60, dtype=torch.uint8)[:, None, None, None]
        whole = ImageSet(numbers, labels, tuple("0123456789"), (0.0,), (1.0,), "", "")
        monkeypatch.setattr("stillpoint.core.data.stored.Stored.part", lambda *where: whole)
        parts = {split: load("cifar10", "", split, val_size=size, val_choice="first") for split in ("train", "val")}
        return {split: found.images.flatten().tolist() for split, found in parts.items()}

    found = held_out(ordered, 20)
    assert np.bincount(ordered[found["val"]]).tolist() == [2] * 10
    assert np.bincount(ordered[found["train"]]).tolist() == [4] * 10
    assert sorted(found["train"] + found["val"]) == list(range(60)) and found["val"][:4] == [0, 1, 6, 7]
    # the published batches are mixed: theirs is the plain beginning
    mixed = ordered[torch.from_numpy(np.random.RandomState(0).permutation(60))]
    assert held_out(mixed, 20)["val"] == list(range(20))
    with pytest.raises(UserError, match="fewer than one for each of 10 classes"):
        held_out(ordered, 9)


def test_missing_files_are_named_with_their_place_and_the_command(fashion, tmp_path: Path) -> None:
    root = fashion[0]
    (root / "FashionMNIST/raw/train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        UserError, match=r"put train-images-idx3-ubyte\.gz, train-labels.* into .*FashionMNIST/raw; then run"
    ):
        load("fashion_mnist", root)
    for name in set(DATASETS) - {"digits", "digits_segmentation", "digits_undersampled", "fashion_mnist"}:
        with pytest.raises(UserError, match=f"stillpoint prepare {name} --root {tmp_path}"):
            prepare(name, tmp_path)
        with pytest.raises(UserError, match=f"stillpoint prepare {name} --root {tmp_path}"):
            load(name, tmp_path, "gaussian_noise/1" if name == "cifar10_c" else "test")
    assert not (tmp_path / "prepared").exists()


def test_unknown_names_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown data set 'cifar11'.*nearest: cifar10"):
        load("cifar11", tmp_path)
    with pytest.raises(UserError, match="unknown split 'dev' of digits: choose train, val or test"):
        load("digits", tmp_path, "dev")
    with pytest.raises(UserError, match="no validation images"):
        load("digits", tmp_path, "val", val_size=0)


def test_cifar_batches_are_read_in_order(cifar_batches) -> None:
    root, images, labels = cifar_batches
    train = load_images("cifar10", root, "train", val_size=0)
    assert np.array_equal(train.images.numpy(), images) and train.labels.tolist() == labels.tolist()
    assert train.title == "CIFAR-10" and train.classes[3] == "cat"
    assert np.array_equal(load_images("cifar10", root, "test").images.numpy(), images[:4])


def test_the_original_archive_is_read_without_unpacking(cifar_batches, monkeypatch: pytest.MonkeyPatch) -> None:
    root, images, _ = cifar_batches
    archive = root / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(root / "cifar-10-batches-py")
    with pytest.raises(UserError, match="has the wrong digest"):
        prepare("cifar10", root)
    monkeypatch.setitem(cifar.CIFAR_MD5, archive.name, digest(archive, "md5"))
    assert np.array_equal(load_images("cifar10", root, "train", val_size=0).images.numpy(), images)
    assert sorted(path.name for path in root.iterdir()) == [archive.name, "prepared"]


def test_a_changed_batch_is_refused_before_it_is_unpickled(cifar_batches) -> None:
    path = cifar_batches[0] / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="data_batch_3 has the wrong digest"):
        prepare("cifar10", cifar_batches[0])
    path.unlink()
    with pytest.raises(UserError, match="data_batch_3 not found"):
        prepare("cifar10", cifar_batches[0])


def test_the_digests_are_torchvisions() -> None:
    spec = find_spec("torchvision")
    assert spec and spec.origin
    text = (Path(spec.origin).parent / "datasets" / "cifar.py").read_text()
    assert all(value in text for value in cifar.CIFAR_MD5.values())


def test_cifar100_takes_its_class_names_from_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    data = np.random.RandomState(0).randint(0, 256, (3, 3072), np.uint8)
    values = {
        "train": {b"data": data, b"fine_labels": [99, 0, 5], b"coarse_labels": [0, 0, 0]},
        "test": {b"data": data[:1], b"fine_labels": [7]},
        "meta": {b"fine_label_names": [b"class%d" % k for k in range(100)]},
    }
    for name, value in values.items():
        content = pickle.dumps(value, protocol=2)
        (folder / name).write_bytes(content)
        monkeypatch.setitem(cifar.CIFAR_MD5, name, md5(content).hexdigest())
    found = load_images("cifar100", tmp_path, "train", val_size=0)
    assert found.labels.tolist() == [99, 0, 5] and found.classes[99] == "class99" and found.title == "CIFAR-100"


def test_pictures_in_folders_say_that_they_are_jpeg(cifar_pictures: Path) -> None:
    train = load_images("cifar10", cifar_pictures, "train", val_size=0)
    assert train.title == "CIFAR-10 (JPEG q75, 20 of 50,000 train images, 10 of 10,000 test images)"
    assert json.loads(prepare("cifar10", cifar_pictures).read_text())["incomplete"].startswith("20 of 50,000")
    assert train.labels.tolist() == [k // 2 for k in range(20)]
    assert train.images.shape == (20, 3, 32, 32)


def test_an_archive_of_pictures_gives_the_bytes_of_the_folder(cifar_pictures: Path, tmp_path_factory) -> None:
    packed = tmp_path_factory.mktemp("packed")
    with tarfile.open(packed / "cifar10-jpeg.tar.xz", "w:xz") as tar:
        for part in ("test", "train"):
            tar.add(cifar_pictures / "cifar10" / part, part)
    seen: list[tuple[str, int, int]] = []
    prepare("cifar10", packed, progress=lambda *step: seen.append(step))
    for split in ("train", "test"):
        a, b = (load_images("cifar10", root, split, val_size=0) for root in (packed, cifar_pictures))
        assert a.digest == b.digest and torch.equal(a.images, b.images)
    assert seen and seen[0][0] == "decoding images"


def test_foreign_pictures_are_named(cifar_pictures: Path) -> None:
    strange = cifar_pictures / "cifar10" / "test" / "cat" / "0000.jpg"
    Image.new("RGB", (32, 31)).save(strange)
    with pytest.raises(UserError, match=r"test/cat/0000\.jpg is 32x31"):
        prepare("cifar10", cifar_pictures)
    strange.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"test/cat/0000\.jpg cannot be decoded"):
        prepare("cifar10", cifar_pictures)
    shutil.rmtree(strange.parent.parent)
    with pytest.raises(UserError, match="no images under test"):
        prepare("cifar10", cifar_pictures)
    shutil.rmtree(cifar_pictures / "cifar10" / "train" / "cat")
    (cifar_pictures / "cifar10" / "test" / "dog").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(cifar_pictures / "cifar10" / "test" / "dog" / "a.png")
    with pytest.raises(UserError, match="9 class folders"):
        prepare("cifar10", cifar_pictures)


def test_prepare_is_idempotent_and_sees_a_change_of_its_sources(fashion, monkeypatch) -> None:
    root, images, _ = fashion
    marker = prepare("fashion_mnist", root)
    cache = root / "prepared" / "fashion_mnist.safetensors"
    times = marker.stat().st_mtime_ns, cache.stat().st_mtime_ns
    told = json.loads(marker.read_text())
    assert told["images"] == {"train": 12, "test": 4} and told["title"] == "Fashion-MNIST"
    assert told["digests"]["train"] == load("fashion_mnist", root, "train", val_size=0).digest
    assert prepare("fashion_mnist", root) == marker
    assert times == (marker.stat().st_mtime_ns, cache.stat().st_mtime_ns)
    raw = root / "FashionMNIST" / "raw"
    labels = (raw / "t10k-labels-idx1-ubyte").read_bytes()[:-4] + b"\1\2\3\4"
    (raw / "t10k-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(UserError, match="the test images and labels are not those of Fashion-MNIST"):
        load("fashion_mnist", root, "test")
    monkeypatch.setitem(fashion_mnist.DIGESTS, "test", set_digest(images[:4], np.frombuffer(labels[-4:], np.uint8)))
    assert load_images("fashion_mnist", root, "test").labels.tolist() == [1, 2, 3, 4]
    shutil.rmtree(root / "FashionMNIST")
    assert load_images("fashion_mnist", root, "test").labels.tolist() == [1, 2, 3, 4]
    assert not [path for path in (root / "prepared").iterdir() if path.name.startswith(".")]


def test_a_torn_cache_is_made_again_and_a_changed_one_is_refused(fashion) -> None:
    root = fashion[0]
    prepare("fashion_mnist", root)
    cache = root / "prepared" / "fashion_mnist.safetensors"
    content = cache.read_bytes()
    cache.write_bytes(content[:2000])
    assert len(load_images("fashion_mnist", root, "train", val_size=0)) == 12
    assert cache.read_bytes() == content
    # one bit of the last stored part
    cache.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="is damaged: its digest is wrong"):
        for part in ("train", "test"):
            load("fashion_mnist", root, part, val_size=0)


def test_a_cache_of_a_type_that_numpy_lacks_is_made_again(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    load("digits", tmp_path, "test", val_size=0)
    path = cache_path("digits", tmp_path)
    whole = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    save_file({name: values.to(torch.bfloat16) for name, values in load_file(path).items()}, path, about)
    load("digits", tmp_path, "test", val_size=0)
    assert path.read_bytes() == whole


def test_a_read_only_root_serves_without_a_cache(fashion, monkeypatch: pytest.MonkeyPatch) -> None:
    root, images, _ = fashion
    (root / "prepared").write_bytes(b"")  # so that not even a superuser can write below it

    def refuse(*args):
        raise PermissionError(13, "read-only")

    monkeypatch.setattr("stillpoint.core.data.stored.write", refuse)
    found = load_images("fashion_mnist", root, "train", val_size=0)
    assert np.array_equal(found.images[:, 0].numpy(), images)
    with pytest.raises(UserError, match="cannot be written to"):
        prepare("fashion_mnist", root)


def test_digests_tell_subsets_apart(fashion) -> None:
    root = fashion[0]
    sets = [load_images("fashion_mnist", root, "train", val_size=n) for n in (0, 2, 3)]
    sets += [load_images("fashion_mnist", root, "train", val_size=2, val_choice="first"), sets[0].sample(10)]
    assert len({found.digest for found in sets}) == 5
    assert sets[0].sample(100) is sets[0] and torch.equal(sets[-1].labels, sets[0].labels[:10])


def test_cifar10_c_gives_one_corruption_and_severity(corrupted) -> None:
    root, images = corrupted
    found = load_images("cifar10_c", root, "gaussian_noise/3")
    assert np.array_equal(found.images.numpy(), images[8:12].transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 1, 2, 3] and found.title == "CIFAR-10-C gaussian noise 3, 4 of 10,000 images"
    assert json.loads(prepare("cifar10_c", root).read_text())["images"] == {"gaussian_noise": 20}


def test_cifar10_c_refuses_what_is_not_there(corrupted) -> None:
    root = corrupted[0]
    with pytest.raises(
        UserError, match=r"'gaussian_nois'; nearest: gaussian_noise.*; choose from gaussian_noise, shot_noise"
    ):
        load("cifar10_c", root, "gaussian_nois/1")
    with pytest.raises(UserError, match=r"unknown severity 6 of gaussian_noise: choose from 1, 2, 3, 4, 5"):
        load("cifar10_c", root, "gaussian_noise/6")
    with pytest.raises(UserError, match=r"shot_noise\.npy not found"):
        load("cifar10_c", root, "shot_noise/1")
    for split in ("test", "gaussian_noise", "../labels/1"):
        with pytest.raises(UserError, match="write <corruption>/<severity 1 to 5>"):
            load("cifar10_c", root, split)
    np.save(root / "CIFAR-10-C" / "fog.npy", np.array([{"a": 1}] * 20, object))
    with pytest.raises(UserError, match=r"fog\.npy is truncated or not a NumPy array"):
        load("cifar10_c", root, "fog/1")
    path = root / "CIFAR-10-C" / "gaussian_noise.npy"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"gaussian_noise\.npy is truncated"):
        load("cifar10_c", root, "gaussian_noise/1")
    np.save(path, np.zeros((20, 32, 32), np.uint8))
    with pytest.raises(UserError, match=r"not uint8 \(50000, 32, 32, 3\)"):
        load("cifar10_c", root, "gaussian_noise/1")
    np.save(path, np.zeros((20, 32, 32, 3), np.uint8))
    for labels in (np.full(20, 10, np.uint8), np.zeros(20, np.float32), np.full(20, -1)):
        np.save(root / "CIFAR-10-C" / "labels.npy", labels)
        with pytest.raises(UserError, match=r"labels\.npy does not hold class numbers from 0 to 9"):
            load("cifar10_c", root, "gaussian_noise/1")


def test_a_sample_of_a_set_that_lies_by_class_shows_all_classes():
    mixed, ordered = torch.tensor([1, 0, 2, 0, 1, 2]), torch.tensor([0, 0, 1, 1, 2, 2])
    assert sample(mixed, 3).tolist() == [0, 1, 2]
    assert sample(ordered, 3).tolist() == [0, 2, 4]
    assert sample(mixed, None).tolist() == sample(ordered, 9).tolist() == list(range(6))
    assert sample(torch.randn(4, 1, 2, 2), 2).tolist() == [0, 1]  # images for targets


def test_a_marker_that_is_no_text_is_written_again(tmp_path: Path) -> None:
    marker = prepare("digits", tmp_path)
    content = marker.read_bytes()
    marker.write_bytes(b"\xff\xfe")
    assert prepare("digits", tmp_path).read_bytes() == content
