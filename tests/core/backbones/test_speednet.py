import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stillpoint.core.backbones.speednet import PatchConv2d, SpeedNet, speednet
from stillpoint.core.config.slot import FILLINGS
from stillpoint.core.layers import downsample_factory

WIDTHS = (6, 8, 8)
SHIFTS = ((1, 0), (5, 3), (-2, 7))


def tiny(**options) -> SpeedNet:
    torch.manual_seed(0)
    return SpeedNet(**{"widths": WIDTHS, "num_classes": 5, **options})


def test_it_has_some_two_million_parameters_and_three_halvings():
    with torch.device("meta"):
        net = speednet("speednet", image_size=32, num_classes=10, in_channels=3)
    assert sum(p.numel() for p in net.parameters()) == 1_972_792
    assert [tuple(feature) for feature in net.feature_info] == [
        ("stage1", 64, 2),
        ("stage2", 256, 4),
        ("stage3", 256, 8),
    ]
    assert net.forward_features(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 256, 4, 4)
    assert speednet("speednet", image_size=32, width=0.25).stage2.conv2.weight.shape == (64, 64, 3, 3)


@pytest.mark.parametrize("conv_padding", ["zeros", "circular"])
@pytest.mark.parametrize("head", ["max", "average"])
def test_logits_are_those_of_plain_operations(conv_padding, head):
    net, x = tiny(conv_padding=conv_padding, head=head).eval(), torch.randn(3, 3, 16, 16)
    mode = "circular" if conv_padding == "circular" else "constant"
    y = F.relu(F.conv2d(F.pad(x, (0, 1, 0, 1), mode=mode), net.first.weight, net.first.bias))
    for stage in (net.stage1, net.stage2, net.stage3):
        y = F.max_pool2d(F.conv2d(F.pad(y, (1,) * 4, mode=mode), stage.conv1.weight), 2)
        y = F.relu(F.batch_norm(y, stage.norm1.running_mean, stage.norm1.running_var))
        y = F.conv2d(F.pad(y, (1,) * 4, mode=mode), stage.conv2.weight)
        y = F.relu(F.batch_norm(y, stage.norm2.running_mean, stage.norm2.running_var))
    y = y.flatten(2).amax(2) if head == "max" else y.mean((2, 3))
    torch.testing.assert_close(net(x), F.linear(y, net.fc.weight) / 9)


@pytest.mark.parametrize("conv_padding", ["zeros", "circular"])
def test_subsampling_after_a_dense_pool_is_the_plain_network(conv_padding):
    plain = tiny(conv_padding=conv_padding).eval()
    filled = tiny(conv_padding=conv_padding, downsample=downsample_factory("subsample")).eval()
    filled.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(filled(x), plain(x))


@pytest.mark.parametrize("conv_padding", ["zeros", "circular"])
@pytest.mark.parametrize("kind", FILLINGS)
def test_every_filling_stands_in_its_slots_and_every_free_parameter_learns(kind, conv_padding):
    net = tiny(
        conv_padding=conv_padding,
        downsample=downsample_factory(kind, **({"groups": 2} if kind == "adaptive_blur" else {})),
    )
    assert [name for name, module in net.named_modules() if name.endswith("pool.1")] == [
        f"stage{i}.pool.1" for i in (1, 2, 3)
    ]
    y = net(torch.randn(4, 3, 32, 32))
    y.logsumexp(1).sum().backward()
    assert y.shape == (4, 5)
    free = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert not any(name.endswith(("norm1.weight", "norm2.weight")) for name in free)
    assert all(p.grad is not None and p.grad.isfinite().all() for name, p in free.items() if ".pool." not in name)


@pytest.mark.parametrize("head", ["max", "average"])
def test_circular_polyphase_does_not_see_where_the_object_is(head):
    fill = downsample_factory("polyphase", size=3)
    net = tiny(conv_padding="circular", downsample=fill, head=head).double().eval()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    y = net(x)
    for shift in SHIFTS:
        torch.testing.assert_close(net(x.roll(shift, (2, 3))), y)


def test_the_plain_network_does():
    net, x = tiny(conv_padding="circular").eval(), torch.randn(4, 3, 32, 32)
    assert all(not torch.allclose(net(x.roll(shift, (2, 3))), net(x), atol=1e-4) for shift in SHIFTS)


def test_convolutions_begin_as_identities_of_what_they_see():
    net, x = tiny(), torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(net.stage2.conv1(x)[:, :6], x)
    torch.testing.assert_close(net.stage1.conv1(torch.cat([x] * 4, 1)), x)


def test_whitened_patches_are_uncorrelated_of_variance_one_but_for_the_weakest_and_stay():
    first, mix = PatchConv2d(3, "zeros"), torch.randn(3, 3)
    images = torch.einsum("dc,nchw->ndhw", mix, torch.randn(50, 3, 12, 12))
    first.whiten(images)
    answers = first(images)[:, :, :-1, :-1].transpose(0, 1).flatten(1)  # without the padded border
    torch.testing.assert_close(answers[:12], -answers[12:])
    second = answers[:12] @ answers[:12].T / answers.shape[1]
    patches = F.unfold(images, 2).transpose(0, 1).flatten(1)
    variances = torch.linalg.eigvalsh(patches @ patches.T / patches.shape[1])
    torch.testing.assert_close(second, torch.diag(variances / (variances + 0.05)), atol=1e-3, rtol=0)
    assert not first.weight.requires_grad and first.bias.requires_grad


def test_whitening_is_a_function_of_the_images():
    images = torch.randn(20, 3, 8, 8)
    nets = [tiny(), SpeedNet(widths=WIDTHS)]
    for net in nets:
        net.whiten(images)
    assert torch.equal(nets[0].first.weight, nets[1].first.weight)


def test_what_it_cannot_be_is_refused():
    with pytest.raises(ValueError, match="conv_padding must be zeros or circular, got 'reflect'"):
        SpeedNet(conv_padding="reflect")
    with pytest.raises(ValueError, match="head must be max or average, got 'flatten'"):
        SpeedNet(head="flatten")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image_size must be at least 8, got 7"):
        speednet("speednet", image_size=7)


def test_norms_and_activations_are_slots():
    net = tiny(activation=lambda channels: nn.PReLU(channels), norm=lambda channels: nn.GroupNorm(2, channels))
    kinds = [type(module) for module in net.modules()]
    assert kinds.count(nn.PReLU) == 7 and kinds.count(nn.GroupNorm) == 6 and nn.BatchNorm2d not in kinds
    assert all(p.requires_grad for p in net.parameters())
