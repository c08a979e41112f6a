"""Convolution, norm, sum and activation: one convolution while weights are fixed, the modules' own values always."""

import copy

import pytest
import torch
from torch import nn

from stillpoint.core.backbones.resnet import resnet_for
from stillpoint.core.base.modes import weights_fixed
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.engine import Predictor, evaluate
from stillpoint.core.kernels import folded, small_maps
from stillpoint.core.layers import PaddedConv2d, PointwiseConv2d, conv_norm_act
from stillpoint.core.layers.fused_sequential import FusedSequential
from tests.core.layers.test_norm_act import ACTS, batch_norm
from tests.core.tiny import image_set

LAST = torch.channels_last
CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(16, 24, 3, padding=1, bias=False),
    "stride, bias": lambda: nn.Conv2d(3, 67, 5, stride=2, padding=2),
    "depthwise": lambda: nn.Conv2d(20, 20, 3, padding=1, groups=20),
    "groups, dilation": lambda: nn.Conv2d(16, 32, (3, 1), padding=(2, 0), dilation=2, groups=4, bias=False),
    "pointwise": lambda: PointwiseConv2d(6, 8, stride=2),
    "circular": lambda: PaddedConv2d(16, 16, 3, padding=1, bias=False, padding_mode="circular"),
    "reflect, bias": lambda: PaddedConv2d(8, 8, 3, padding=2, padding_mode="reflect"),
    "small maps": lambda: PaddedConv2d(256, 256, 3, padding=1, bias=False),
    "small maps around a torus": lambda: PaddedConv2d(256, 256, 3, padding=1, bias=False, padding_mode="circular"),
}


@pytest.fixture
def calls(monkeypatch):
    """How often a folded convolution ran."""
    seen: list[str] = []
    real = folded.convolution

    def counted(x, weight, bias, residual, options, activation):
        seen.append(activation)
        return real(x, weight, bias, residual, options, activation)

    monkeypatch.setattr(folded, "convolution", counted)
    return seen


def made(kind, side=9):
    torch.manual_seed(0)
    conv = CONVOLUTIONS[kind]().to(memory_format=LAST)
    norm = batch_norm(conv.out_channels, torch.float32, training=False)
    if "small" in kind:
        side = 4
    x = torch.randn(5, conv.in_channels, side, side).contiguous(memory_format=LAST)
    residual = torch.randn_like(conv(x)).contiguous(memory_format=LAST).detach()
    return x, conv, norm, residual


def plain(x, conv, norm, act, residual):
    y = norm(conv(x))
    y = y if residual is None else y + residual
    return y if act is None else act(y)


def exact(x, conv, norm, act, residual):
    conv, norm = copy.deepcopy(conv).double(), copy.deepcopy(norm).double()
    return plain(x.double(), conv, norm, act, None if residual is None else residual.double())


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_values_are_those_of_the_modules(calls, kind):
    x, conv, norm, residual = made(kind)
    for act in ACTS.values():
        for added in (None, residual):
            with torch.inference_mode(), weights_fixed():
                y = conv_norm_act(x, conv, norm, act, added)
            assert y.is_contiguous(memory_format=LAST)
            torch.testing.assert_close(y.double(), exact(x, conv, norm, act, added).detach(), rtol=1e-5, atol=3e-5)
    # of sums with a shortcut oneDNN knows those of one group
    assert len(calls) == (8 if conv.groups == 1 else 4)


@pytest.mark.parametrize("kind", ["3x3", "circular", "small maps", "depthwise"])
def test_under_autocast_it_is_as_near_to_the_truth_as_the_modules(calls, kind):
    x, conv, norm, residual = made(kind)
    residual = residual.bfloat16()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        theirs = plain(x, conv, norm, nn.ReLU(), residual)
        with weights_fixed():
            ours = conv_norm_act(x, conv, norm, nn.ReLU(), residual)
    want = exact(x, conv, norm, nn.ReLU(), residual).detach()
    assert ours.dtype == torch.bfloat16
    assert calls == ["relu"] * (torch.ops.mkldnn._is_mkldnn_bf16_supported() and conv.groups == 1)
    off, usual = ((y.double() - want).norm() / want.norm() for y in (ours, theirs))
    assert off <= 1.2 * usual


def test_it_folds_once_while_weights_are_fixed_and_never_otherwise(calls, monkeypatch):
    folds = []
    real = torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda t: folds.append(1) or real(t))
    x, conv, norm, _ = made("3x3")
    with torch.no_grad():
        conv_norm_act(x, conv, norm)
        assert not calls and not folds
        with weights_fixed():
            first = conv_norm_act(x, conv, norm)
            once = len(folds)
            assert torch.equal(conv_norm_act(x, conv, norm), first)
        assert len(calls) == 2 and len(folds) == once
        # a change that no version counter sees
        conv.weight.data.mul_(2)
        with weights_fixed():
            assert not torch.equal(conv_norm_act(x, conv, norm), first)
        assert len(folds) == 2 * once
        kept = {}
        for _ in range(2):
            with weights_fixed(kept):
                conv_norm_act(x, conv, norm)
        assert len(folds) == 3 * once


def hooked(conv, norm):
    conv.register_forward_hook(lambda *of: None)


def replaced(conv, norm):
    conv.forward = conv.forward


def learning(conv, norm):
    norm.train()


def wide(conv, norm):
    conv.double(), norm.double()


def own(conv, norm):
    conv.__class__ = type("Own", (nn.Conv2d,), {})


def same(conv, norm):
    conv.padding = "same"


def around(conv, norm):
    replacement = nn.Conv2d(16, 24, 3, padding=1, bias=False, padding_mode="circular")
    conv.__dict__.update(replacement.__dict__)


@pytest.mark.parametrize("change", [hooked, replaced, learning, wide, own, same, around])
def test_whatever_could_see_the_difference_gets_the_modules(calls, change):
    x, conv, norm, residual = made("3x3")
    change(conv, norm)
    x, residual = x.to(conv.weight.dtype), residual.to(conv.weight.dtype)
    with torch.inference_mode(), weights_fixed():
        got = conv_norm_act(x, conv, copy.deepcopy(norm), nn.ReLU(), residual)
        want = plain(x, conv, norm, nn.ReLU(), residual)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert not calls


def test_gradients_are_those_of_the_modules(calls):
    x, conv, norm, residual = made("3x3")
    x.requires_grad_()
    with weights_fixed():
        (got,) = torch.autograd.grad(conv_norm_act(x, conv, norm, nn.ReLU(), residual).sum(), x)
    (want,) = torch.autograd.grad(plain(x, conv, norm, nn.ReLU(), residual).sum(), x)
    torch.testing.assert_close(got, want)
    assert not calls


def test_other_layouts_types_and_modules_are_taken_as_they_are(calls):
    x, conv, norm, residual = made("3x3")
    conv = conv.to(memory_format=torch.contiguous_format)
    with torch.inference_mode(), weights_fixed():
        conv_norm_act(x.contiguous(), conv, norm, nn.ReLU(), residual.contiguous())
        conv_norm_act(x, conv, nn.GroupNorm(2, 24), nn.ReLU(), residual)
        conv_norm_act(x, conv, norm, nn.GELU(), residual)
        conv_norm_act(x, nn.Sequential(conv), norm)
        conv_norm_act(x[:0], conv, norm)
        with torch.backends.mkldnn.flags(enabled=False):
            conv_norm_act(x, conv, norm)
        conv_norm_act(x, conv, norm, None, residual.double())
    assert not calls


@pytest.mark.parametrize("shape", [(0, 16, 9, 9), (5, 0, 9, 9), (5, 15, 9, 9), (5, 16, 9, 8), (16, 9, 9), (5, 1, 9, 9)])
def test_a_residual_of_another_shape_is_left_to_pytorch(calls, shape):
    x, conv, norm, _ = made("circular")
    residual = torch.randn(shape)
    with torch.inference_mode(), weights_fixed():
        if shape == (16, 9, 9) or shape[1] == 1:
            torch.testing.assert_close(
                conv_norm_act(x, conv, norm, nn.ReLU(), residual), plain(x, conv, norm, nn.ReLU(), residual)
            )
        else:
            with pytest.raises(RuntimeError, match="must match the size of tensor"):
                conv_norm_act(x, conv, norm, nn.ReLU(), residual)
    assert not calls


@pytest.mark.parametrize("channels", [1, 32])
def test_a_norm_of_other_channels_is_never_folded(calls, channels):
    x, conv, _, _ = made("circular")
    with torch.inference_mode(), weights_fixed(), pytest.raises(RuntimeError, match="should contain 16 elements"):
        conv_norm_act(x, conv, batch_norm(channels, torch.float32, training=False), nn.ReLU())
    assert not calls


@pytest.mark.parametrize("at", ["weight", "running_var"])
def test_weights_that_have_diverged_are_never_folded(calls, at):
    x, conv, norm, _ = made("3x3")
    with torch.no_grad():
        (conv if at == "weight" else norm).state_dict()[at][2] = float("nan")
    with torch.no_grad(), weights_fixed():
        for _ in range(2):
            assert conv_norm_act(x, conv, norm, nn.ReLU())[:, 2].isnan().all()
    assert not calls


def test_an_image_that_is_not_finite_is_reported_though_rectifiers_hide_it(calls):
    net = resnet_for("resnet20", image_size=32, num_classes=4, width=0.25).to(memory_format=LAST).eval()
    predict = Predictor(net, channels_last=True)
    x = torch.randn(4, 3, 32, 32)
    with weights_fixed():
        predict(x)
        assert predict.finite and calls
        predict(x.index_fill(0, torch.tensor([1]), float("nan")))
        assert not predict.finite


def test_a_sequence_folds_what_follows_a_convolution(calls):
    torch.manual_seed(0)
    net = FusedSequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1),
        nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU6(),
    )  # fmt: skip
    net = net.to(memory_format=LAST).eval()
    x = torch.randn(2, 3, 9, 9).contiguous(memory_format=LAST)
    with torch.inference_mode():
        want = nn.Sequential(*net)(x)
        with weights_fixed():
            torch.testing.assert_close(net(x), want, rtol=1e-5, atol=1e-5)
    assert calls == ["relu", "none"]


@pytest.mark.parametrize("channels_last", [True, False])
def test_every_evaluation_folds_a_network(calls, channels_last):
    torch.manual_seed(0)
    net = resnet_for("resnet8", image_size=8, num_classes=3, in_channels=1)
    evaluate(net, image_set(20), EvaluateConfig(metrics=("accuracy",)), channels_last=channels_last)
    # six convolutions of blocks and two of shortcuts; the image of one channel has no layout
    assert len(calls) == 8 * channels_last


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_small_maps_are_convolved_with_channels_first(monkeypatch, padding_mode):
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        monkeypatch.setattr(small_maps, "_wide", lambda: True)
    formats = []
    real = torch.nn.functional.conv2d

    def watched(x, *rest):
        formats.append(x.is_contiguous(memory_format=LAST))
        return real(x, *rest)

    monkeypatch.setattr(small_maps.F, "conv2d", watched)
    torch.manual_seed(0)
    conv = PaddedConv2d(256, 256, 3, padding=1, bias=False, padding_mode=padding_mode).to(memory_format=LAST)
    plain_conv = nn.Conv2d(256, 256, 3, padding=1, bias=False, padding_mode=padding_mode, dtype=torch.float64)
    plain_conv.load_state_dict(conv.state_dict())
    for side, batch, first in ((4, 16, True), (5, 16, True), (4, 15, False), (6, 16, False)):
        x = torch.randn(batch, 256, side, side).contiguous(memory_format=LAST).requires_grad_()
        seed = torch.randn(batch, 256, side, side).contiguous(memory_format=LAST)
        formats.clear()
        y = conv(x)
        assert formats == [not first] and y.is_contiguous(memory_format=LAST)
        got = torch.autograd.grad(y, (x, conv.weight), seed)
        wide_x = x.detach().double().requires_grad_()
        want = torch.autograd.grad(plain_conv(wide_x), (wide_x, plain_conv.weight), seed.double())
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=2e-3)
