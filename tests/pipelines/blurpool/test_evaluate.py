import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillpoint.core.backbones.densenet import DenseNet
from stillpoint.core.backbones.resnet import resnet
from stillpoint.core.backbones.vgg import VGG
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.sets import ImageSet
from stillpoint.core.data.shifts import roll
from stillpoint.core.evaluation.engine import evaluate
from stillpoint.core.evaluation.registry import View
from stillpoint.core.layers import downsample_factory
from stillpoint.pipelines import configure
from stillpoint.pipelines.blurpool.evaluate import (
    AuthorsWindows,
    Diagonal,
    FeatureDistance,
    Windows,
    diagonal_sweep,
    evaluations,
    feature_distance,
)

SIZE, MARGIN = 12, 4


class Place(torch.nn.Module):
    """Exact for whole numbers, and sensitive to place."""

    def __init__(self):
        super().__init__()
        self.weight = torch.randint(-3, 4, (2 * SIZE * SIZE, 10), generator=torch.Generator().manual_seed(0)).float()

    def forward(self, x):
        return x.flatten(1) @ self.weight


def views(batch, predict, wide_given=True, count=13):
    """Batches of wider images; without, the windows must come from the images themselves."""
    random = torch.Generator().manual_seed(0)
    wide = torch.randint(-5, 6, (count, 2, SIZE + MARGIN, SIZE + MARGIN), generator=random).float()
    labels, parts = torch.arange(count) % 10, torch.arange(count).split(batch)
    for step, indices in enumerate(parts):
        crop = wide[indices][:, :, 2 : 2 + SIZE, 2 : 2 + SIZE]
        given = wide[indices] if wide_given else None
        yield View(crop, labels[indices], indices, predict, wide=given, step=step, steps=len(parts))


def measured(evaluation, batch, **options):
    for view in views(batch, Place(), **options):
        evaluation.update(view)
    return evaluation.compute()


def test_windows_are_drawn_for_each_image_whatever_its_batch():
    config = EvaluateConfig(repeats=3)
    found = measured(Windows(config, 5), 4)
    assert found == measured(Windows(config, 5), 13) == measured(Windows(config, 5), 1)
    assert found != measured(Windows(config, 6), 4)


def test_windows_agree_with_one_window_after_another():
    net, same = Place(), []
    (view,) = views(13, net)
    for image in range(13):
        for repeat in range(3):
            corner = uniform_integers(torch.tensor([image]), 0, MARGIN, 4, "windows", 5, repeat)[0].tolist()
            # the published range leaves the last corner out
            assert all(0 <= c < MARGIN for c in corner)
            cut = [view.wide[image, :, r : r + SIZE, c : c + SIZE] for r, c in (corner[:2], corner[2:])]
            same.append(net(torch.stack(cut)).argmax(1).unique().numel() == 1)
    found = measured(Windows(EvaluateConfig(repeats=3), 5), 4)
    assert found["windows_consistency"] == pytest.approx(np.mean(same), abs=1e-12)


def test_a_small_image_is_seen_through_its_repeated_border():
    net = Place()
    (view,) = views(13, net, wide_given=False)
    padded = torch.nn.functional.pad(view.images, (2,) * 4, mode="replicate")
    (given,) = views(13, net)
    given.wide = padded
    expected = Windows(EvaluateConfig(max_shift=2, repeats=2), 0)
    expected.update(given)
    assert measured(Windows(EvaluateConfig(max_shift=2, repeats=2), 0), 5, wide_given=False) == expected.compute()


def test_the_authors_windows_are_one_pair_for_a_batch_in_the_order_of_passes():
    found = measured(AuthorsWindows(EvaluateConfig(repeats=2), 0), 5)
    random, net, agree, weight = np.random.RandomState(0), Place(), 0.0, 0
    for _ in range(2):
        for view in views(5, net):
            first, second = (random.randint(MARGIN, size=2) for _ in range(2))
            a, b = (net(view.wide[:, :, r : r + SIZE, c : c + SIZE]).argmax(1) for r, c in (first, second))
            agree, weight = agree + float((a == b).double().mean()) * len(a), weight + len(a)
    assert found["windows_consistency"] == pytest.approx(agree / weight, abs=1e-12)


def test_the_diagonal_is_a_window_at_each_place():
    (view,) = views(13, Place())
    found = diagonal_sweep(Place(), view.wide, view.labels, SIZE, MARGIN + 1)
    for image in (0, 7):
        for o in range(MARGIN + 1):
            chances = Place()(view.wide[image : image + 1, :, o : o + SIZE, o : o + SIZE]).double().softmax(1)[0]
            own = float(chances[view.labels[image]])
            assert float(found["probability"][image, o]) == pytest.approx(own, abs=1e-12)
            others = [float(chances[k]) for k in range(10) if k != view.labels[image]]
            assert float(found["runner_up"][image, o]) == pytest.approx(max(others), abs=1e-12)
            assert int(found["predicted"][image, o]) == int(chances.argmax())


def test_the_diagonal_counts_its_images_whatever_the_batch():
    config = EvaluateConfig(limit_all_shifts=7)
    one, other = (measured(Diagonal(config, 0), batch) for batch in (3, 13))
    assert one["diagonal_images"] == 7 and one["diagonal_probability"].shape == (7, MARGIN + 1)
    assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one)
    right = one["diagonal_correct"].bool()
    assert one["diagonal_always_right"] == pytest.approx(float(right.all(1).double().mean()))
    steps = one["diagonal_probability"].double().diff(dim=1).abs().mean()
    assert one["diagonal_stability"] == pytest.approx(1 - float(steps), abs=1e-6)


def small(downsample=None):
    torch.manual_seed(0)
    options = {"widths": (4, 6, 8, 10), "num_classes": 3, "in_channels": 1, "stem": "cifar", "conv_padding": "circular"}
    return resnet("resnet18", downsample=downsample, **options).double().eval()


@pytest.mark.parametrize("size", [1, 3])
def test_distances_vanish_exactly_where_a_layer_moves_with_its_input(size):
    factory = downsample_factory("blur", size=size, padding="circular")
    images = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    maps = feature_distance(small(factory), images, 4)
    for name, stride in (("layer1", 1), ("layer2", 2), ("layer3", 4)):
        rows = torch.arange(5)
        on = (rows % stride == 0)[:, None] & (rows % stride == 0)
        assert float(maps[name][on].abs().max()) < 1e-20, name
        if stride > 1:
            assert float(maps[name][~on].min()) > 1e-6, name


def test_blur_brings_shifted_maps_nearer():
    images = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    means = [
        float(
            feature_distance(small(downsample_factory("blur", size=size, padding="circular")), images, 2)[
                "layer2"
            ].mean()
        )
        for size in (1, 5)
    ]
    assert means[1] < means[0]


@pytest.mark.parametrize("side", [(12, 12), (13, 10)])
def test_distances_are_those_of_maps_repeated_up_to_the_input(side):
    net = small().float()
    images = torch.randn(2, 1, *side)
    # a place where one map is zero and another where both are
    net.layer1.register_forward_hook(lambda module, given, y: y * (y.abs().amax(1, keepdim=True) > 0.9))
    found = feature_distance(net, images, 2)
    kept = {}
    for name in found:
        net.get_submodule(name).register_forward_hook(lambda m, i, o, n=name: kept.__setitem__(n, o.detach()))
    with torch.no_grad():
        net(images)
        still = {name: F.interpolate(y, side) for name, y in kept.items()}
        for dh in range(3):
            for dw in range(3):
                net(roll(images, (dh, dw)))
                for name, y in still.items():
                    a, b = roll(y, (dh, dw)).double(), F.interpolate(kept[name], side).double()
                    both = (a.abs().amax(1) == 0) & (b.abs().amax(1) == 0)
                    wanted = (1 - F.cosine_similarity(a, b, dim=1)).masked_fill(both, 0).mean()
                    torch.testing.assert_close(found[name][dh, dw], wanted, atol=1e-6, rtol=1e-5)


def test_feature_distance_runs_by_name_on_the_first_images():
    data = torch.randint(0, 255, (9, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image_set = ImageSet(data, torch.arange(9) % 3, ("a", "b", "c"), (0.5,), (0.25,), "tiny", "digest")
    config = EvaluateConfig(metrics=("feature_distance",), limit_all_shifts=5, max_shift=1, batch_size=3)
    found = evaluate(small().float(), image_set, config, evaluations={"feature_distance": FeatureDistance})
    whole = feature_distance(small().float(), ((data[:5].float() / 255) - 0.5) / 0.25, 2)
    assert found["feature_distance_images"] == 5
    maps = {name.split(":")[2]: grid for name, grid in found.items() if ":" in name}
    assert list(maps) == list(whole)
    for name, grid in maps.items():
        torch.testing.assert_close(grid.double(), whole[name], atol=1e-5, rtol=1e-4)
    assert found["feature_distance_deepest"] == pytest.approx(float(whole["layer4"].sum()) / 8, rel=1e-4)


def test_a_map_is_what_its_layer_gave_and_not_what_a_relu_in_place_makes_of_it():
    torch.manual_seed(0)
    images = torch.randn(2, 1, 32, 32)
    net = VGG(11, num_classes=3, in_channels=1, head="linear", widths=(4, 4, 4, 4, 4)).eval()
    found = feature_distance(net, images, 1)
    for module in net.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    apart = feature_distance(net, images, 1)
    assert all(torch.equal(found[name], apart[name]) for name in found)
    # the first convolution and the ReLU behind it are two maps
    assert not torch.equal(found["features.0"], found["features.1"])


@pytest.mark.parametrize("downsample", [None, downsample_factory("blur", size=3)])
def test_the_stages_of_a_densenet_are_known(downsample):
    torch.manual_seed(0)
    net = DenseNet(121, num_classes=3, in_channels=1, downsample=downsample, stem="pool_only").eval()
    found = list(feature_distance(net, torch.randn(1, 1, 32, 32), 1))
    assert [name for name in found if "." not in name.removeprefix("features.")] == [
        *(f"features.{name}" for name in ("conv0", "norm0", "relu0", "pool0")),
        *(f"features.{kind}{i}" for i in (1, 2, 3) for kind in ("denseblock", "transition")),
        *("features.denseblock4", "features.norm5"),
    ]
    # the last one is what `feature_distance_deepest` is of
    assert found[-1] == "features.norm5"


def test_feature_distance_needs_a_network_that_it_knows():
    with pytest.raises(ValueError, match="needs a network"):
        feature_distance(lambda x: x, torch.zeros(1, 1, 8, 8))
    with pytest.raises(UserError, match="feature_distance finds no named layer or slot in Sequential"):
        feature_distance(torch.nn.Sequential(torch.nn.Flatten()), torch.zeros(1, 1, 8, 8))


def test_a_protocol_chooses_its_windows():
    config = configure("blurpool/resnet18")
    assert evaluations(config)["windows"] is Windows
    config = configure("blurpool/resnet18", pairs=["EVALUATE.PROTOCOL", "authors"])
    assert evaluations(config)["windows"] is AuthorsWindows
    # the generator of the adaptive filters' authors starts elsewhere
    config = configure("blurpool/resnet101_pasa3_g8", "pasa", ["EVALUATE.PROTOCOL", "authors"])
    drawn = evaluations(config)["windows"](config.evaluate, 0).random.randint(32, size=20)
    assert drawn.tolist() == np.random.RandomState(7).randint(32, size=20).tolist()
