"""Convolutions of few pixels: the weight gradient as a matrix product, and taps that meet no pixel."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from stillpoint.core.base.modes import weights_fixed
from stillpoint.core.kernels import small_maps, weight_gradient
from stillpoint.core.layers import PaddedConv2d, conv_norm_act

LAST = torch.channels_last


@pytest.fixture
def products(monkeypatch):
    """As on a processor with AVX2; lists the shapes of the weights whose gradient is a matrix product."""
    monkeypatch.setattr(weight_gradient, "_slow", lambda: True)
    monkeypatch.setattr(weight_gradient, "_CHANNELS", 12)
    shapes, real = [], weight_gradient.weight_gradient

    def watched(grad, x, weight, *options):
        shapes.append(tuple(weight.shape[2:]))
        return real(grad, x, weight, *options)

    monkeypatch.setattr(weight_gradient, "weight_gradient", watched)
    return shapes


def gradients(conv, x, seed):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = conv(x)
    return y, torch.autograd.grad(y, (x, *conv.parameters()), seed.to(y.dtype))


@pytest.mark.parametrize("numbers", [2**23, 300])  # 300: an image at a time
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"),
    [(3, 1, 1, 4), (3, 2, 1, 7), ((3, 2), (1, 2), (0, 1), 5), (1, 1, 0, 2), (1, 2, 0, 5), (3, 1, 1, 2)],
)
def test_gradients_are_those_of_float64(products, monkeypatch, kernel, stride, padding, side, numbers):
    monkeypatch.setattr(weight_gradient, "_NUMBERS", numbers)
    torch.manual_seed(0)
    conv = PaddedConv2d(3, 5, kernel, stride=stride, padding=padding).to(memory_format=LAST)
    exact = nn.Conv2d(3, 5, kernel, stride=stride, padding=padding, dtype=torch.float64)
    exact.load_state_dict(conv.state_dict())
    x = torch.randn(4, 3, side, side + 1).contiguous(memory_format=LAST)
    seed = torch.randn_like(exact(x.double()))
    y, found = gradients(conv, x, seed)
    _, want = gradients(exact, x.double(), seed)
    assert len(products) == 1
    torch.testing.assert_close(y.double(), exact(x.double()), rtol=1e-5, atol=1e-6)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    assert found[1].stride() == conv.weight.stride()


def test_large_maps_few_channels_and_other_kinds_keep_pytorch_s_gradient(products, monkeypatch):
    def passed(conv, x):
        products.clear()
        conv.to(memory_format=LAST)(x.contiguous(memory_format=LAST)).sum().backward()
        return not products

    x = torch.randn(2, 4, 8, 8)
    assert not passed(PaddedConv2d(4, 4, 3, padding=1), x)
    assert passed(PaddedConv2d(4, 4, 3, padding=1), torch.randn(2, 4, 9, 9))
    assert passed(PaddedConv2d(4, 2, 3, padding=1), x)
    assert passed(PaddedConv2d(4, 4, 3, padding=1, groups=2), x)
    assert passed(PaddedConv2d(4, 4, 3, padding=2, dilation=2), x)
    assert passed(PaddedConv2d(4, 4, 3, padding=1).double(), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert passed(PaddedConv2d(4, 4, 3, padding=1), x)
    monkeypatch.setattr(weight_gradient, "_slow", lambda: False)
    assert passed(PaddedConv2d(4, 4, 3, padding=1), x)


def test_second_derivatives_exist(products):
    torch.manual_seed(0)
    conv = PaddedConv2d(3, 4, 3, padding=1).to(memory_format=LAST)
    exact = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
    exact.load_state_dict(conv.state_dict())
    for side in (1, 4):
        x = torch.randn(2, 3, side, side).contiguous(memory_format=LAST)
        found = []
        for net, start in ((conv, x), (exact, x.double())):
            leaf = start.detach().requires_grad_()
            to_x, to_weight = torch.autograd.grad(net(leaf).pow(3).sum(), (leaf, net.weight), create_graph=True)
            found.append(torch.autograd.grad(to_x.square().sum() + to_weight.square().sum(), (leaf, net.weight)))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "padding", "size", "left"),
    [(3, 1, (1, 1), (1, 1)), (5, 2, (2, 1), (3, 1)), (7, 3, (2, 5), (3, 7)), ((1, 3), (0, 1), (4, 1), (1, 1)),
     (3, 1, (2, 2), (3, 3)), (3, 0, (3, 3), (3, 3))],
)  # fmt: skip
def test_taps_that_meet_no_pixel_are_left_out(monkeypatch, kernel, padding, size, left):
    torch.manual_seed(0)
    conv = PaddedConv2d(3, 4, kernel, padding=padding).to(memory_format=LAST)
    exact = nn.Conv2d(3, 4, kernel, padding=padding, dtype=torch.float64)
    exact.load_state_dict(conv.state_dict())
    x = torch.randn(2, 3, *size).contiguous(memory_format=LAST)
    shapes, real = [], functional.conv2d
    monkeypatch.setattr(
        small_maps.F, "conv2d", lambda v, w, *rest: shapes.append(tuple(w.shape[2:])) or real(v, w, *rest)
    )
    y, found = gradients(conv, x, torch.ones(2, 4, *exact(x.double()).shape[2:]))
    assert shapes[-1] == left
    _, want = gradients(exact, x.double(), torch.ones_like(y))
    torch.testing.assert_close(y.double(), exact(x.double()), rtol=1e-5, atol=1e-6)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    assert found[1].shape == conv.weight.shape and found[1].stride() == conv.weight.stride()


def test_a_folded_convolution_of_one_pixel_has_one_tap(monkeypatch):
    torch.manual_seed(0)
    conv, norm = PaddedConv2d(8, 8, 3, padding=1, bias=False).to(memory_format=LAST), nn.BatchNorm2d(8).eval()
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    kept = {}
    for side in (1, 3, 1):
        x = torch.randn(2, 8, side, side).contiguous(memory_format=LAST)
        with torch.inference_mode():
            want = norm(conv(x)) + x
            with weights_fixed(kept):
                got = conv_norm_act(x, conv, norm, None, x)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert sorted(tuple(weight.shape[2:]) for weight, _ in kept.values()) == [(1, 1), (3, 3)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_the_result_has_the_layout_that_pytorch_gives_it(layout):
    conv = PaddedConv2d(3, 4, 5, padding=2).to(memory_format=layout)
    plain = nn.Conv2d(3, 4, 5, padding=2).to(memory_format=layout)
    for start in (torch.contiguous_format, LAST):
        x = torch.randn(2, 3, 2, 2).contiguous(memory_format=start)
        found = []
        for net in (conv, plain):
            leaf = x.detach().requires_grad_()
            y = net(leaf)
            found.append((y.stride(), torch.autograd.grad(y, leaf, torch.ones(y.shape))[0].stride()))
        assert found[0] == found[1]


@pytest.mark.parametrize("side", [1, 2, 4])
def test_many_gradients_at_once(products, side):
    conv = PaddedConv2d(3, 4, 5, padding=2).to(memory_format=LAST)
    x = torch.randn(2, 3, side, side).contiguous(memory_format=LAST).requires_grad_()
    y = conv(x)
    seeds = torch.randn(3, *y.shape)
    leaves = x, *conv.parameters()
    found = torch.autograd.grad(y, leaves, seeds, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(y, leaves, seed, retain_graph=True) for seed in seeds]
    for got, *want in zip(found, *one_by_one, strict=True):
        torch.testing.assert_close(got, torch.stack(want), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("side", [1, 4])
def test_a_weight_that_has_changed_since_the_forward_pass_is_refused(products, side, frozen):
    conv = PaddedConv2d(3, 4, 3, padding=1).to(memory_format=LAST)
    conv.weight.requires_grad_(not frozen)
    x = torch.randn(2, 3, side, side).contiguous(memory_format=LAST).requires_grad_()
    y = conv(x).sum()
    with torch.no_grad():
        conv.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_a_refusal_names_the_whole_weight():
    with pytest.raises(RuntimeError, match=r"weight of size \[4, 3, 3, 3\]"):
        PaddedConv2d(3, 4, 3, padding=1)(torch.randn(2, 5, 1, 1))


def test_operations_are_counted_with_all_taps():
    conv = PaddedConv2d(2, 3, 3, padding=1)
    with FlopCounterMode(display=False) as counter:
        conv(torch.randn(1, 2, 1, 1))
    assert counter.get_total_flops() == 2 * 2 * 3 * 9
