import re
from pathlib import Path

import pytest
import torch

from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.blur import binomial_kernel
from stillpoint.core.runs.checkpoint import fill
from stillpoint.pipelines.aps.config import Model
from stillpoint.pipelines.aps.models import build
from stillpoint.pipelines.aps.weights import from_authors, read_authors


def make(**settings):
    return build(
        Model(width=0.25 if settings["arch"] == "resnet20" else 0.0625, **settings),
        in_channels=3,
        num_classes=10,
        image_size=32,
    )


@pytest.fixture(scope="module")
def net():
    return make(arch="resnet20", downsample="polyphase", filter_size=3)


def filt(channels: int, size: int = 3) -> torch.Tensor:
    return binomial_kernel(size, 2).expand(channels, 1, size, size).clone()


@pytest.fixture
def authors(net) -> dict[str, torch.Tensor]:
    """The state of the same network as the authors' circular CIFAR code names it."""
    state = {}
    for key, value in net.state_dict().items():
        block, _, rest = key.partition("downsample.")
        if rest:
            place, leaf = rest.split(".")
            key = f"{block}downsample.{int(place) + 1}.{leaf}"
        elif key.endswith("conv2.weight") and re.match(r"layer[23]\.0\.", key):
            key = key.replace("conv2.weight", "conv2.1.1.weight")
        elif re.search(r"conv\d\.weight", key):
            key = key.replace(".weight", ".1.weight")
        state[key] = value + 1 if value.is_floating_point() else value
    widths = {"layer2": (4, 8), "layer3": (8, 16)}
    for layer, (inputs, outputs) in widths.items():
        state[f"{layer}.0.conv2.0.filt"] = filt(outputs)
        state[f"{layer}.0.downsample.0.filt"] = filt(inputs)
    return state


def test_every_tensor_arrives_at_its_place(net, authors) -> None:
    ours = from_authors(authors, net)
    assert list(ours) == list(net.state_dict())
    for name, value in net.state_dict().items():
        torch.testing.assert_close(ours[name], value + 1 if value.is_floating_point() else value)


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s, "optimizer": {}}])
def test_wrappers_and_dataparallel_prefixes_are_removed(net, authors, wrap) -> None:
    wrapped = wrap({f"module.{key}": value for key, value in authors.items()})
    assert set(from_authors(wrapped, net)) == set(net.state_dict())


def test_a_missing_tensor_is_named(net, authors) -> None:
    del authors["layer2.0.bn2.bias"]
    with pytest.raises(UserError, match=r"missing layer2\.0\.bn2\.bias"):
        from_authors(authors, net)


def test_a_tensor_too_many_is_named(net, authors) -> None:
    authors["layer5.0.bn1.weight"] = torch.ones(4)
    with pytest.raises(UserError, match=r"unexpected layer5\.0\.bn1\.weight"):
        from_authors(authors, net)


def test_another_width_is_refused_with_both_shapes(net, authors) -> None:
    authors["fc.weight"] = torch.zeros(100, 16)
    with pytest.raises(UserError, match=r"of another shape fc\.weight \(100, 16\) instead of \(10, 16\)"):
        fill(net, from_authors(authors, net), origin="theirs")


@pytest.mark.parametrize("size", [2, 5])
def test_another_filter_is_refused(net, authors, size: int) -> None:
    authors["layer3.0.conv2.0.filt"] = filt(16, size)
    with pytest.raises(UserError, match=r"layer3\.0\.conv2\.0\.filt"):
        from_authors(authors, net)


def test_the_same_filter_in_one_wrong_channel_is_refused(net, authors) -> None:
    authors["layer2.0.downsample.0.filt"][3] *= 2
    with pytest.raises(UserError, match=r"layer2\.0\.downsample\.0\.filt"):
        from_authors(authors, net)


def test_a_filter_where_the_network_has_none_is_refused(authors) -> None:
    with pytest.raises(UserError, match=r"unexpected .*filt"):
        from_authors(authors, make(arch="resnet20"))


def test_a_checkpoint_that_repeats_a_convolution_under_two_names_is_refused(net, authors) -> None:
    authors["conv1.weight"] = authors["conv1.1.weight"]
    with pytest.raises(UserError, match=r"unexpected conv1\.1\.weight|unexpected conv1\.weight"):
        from_authors(authors, net)


def test_reading_a_file_of_theirs(net, authors, tmp_path: Path) -> None:
    path = tmp_path / "model_and_optim_best_checkpoint.pt"
    torch.save({"model": {f"module.{k}": v for k, v in authors.items()}, "accuracy": 0.9, "epoch": 7}, path)
    assert {name.removeprefix("module.") for name in read_authors(path)} == set(authors)
    net.load_state_dict(from_authors(read_authors(path), net))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_a_torn_or_foreign_file_gives_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "torn.pt"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_authors(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are no weights at .*absent\.pt"):
        read_authors(tmp_path / "absent.pt")


def test_a_file_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="was refused"):
        read_authors(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="no named tensors"):
        read_authors(tmp_path / "other.pt")


def test_weights_of_a_network_without_filters_do_not_pass_for_one_with(net, authors) -> None:
    bare = {key: value for key, value in authors.items() if not key.endswith(".filt")}
    with pytest.raises(UserError, match=r"no filter for layer2\.0\.pool, but ours has one"):
        from_authors(bare, net)


@pytest.mark.parametrize(
    ("theirs", "downsample", "said"), [("aps_down", "blur", "APS"), ("conv2.0", "polyphase", "BlurPool")]
)
def test_in_the_imagenet_form_aps_and_blurpool_are_told_apart(theirs: str, downsample: str, said: str) -> None:
    net = make(arch="resnet18", form="imagenet", downsample=downsample, filter_size=3)
    stored = {f"{layer}.0.{place}.filt": filt(4, 3) for layer in ("layer2", "layer3", "layer4") for place in (theirs,)}
    stored |= {f"{layer}.0.downsample.0.filt": filt(4, 3) for layer in ("layer2", "layer3", "layer4")}
    stored |= {f"maxpool.{place}.filt": filt(4, 3) for place in (0, 2, 3)}
    with pytest.raises(UserError, match=f"it has {said}"):
        from_authors(stored, net)
