import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stillpoint.core.layers import (
    TranslationInvariantDownsample2d,
    evenness_penalty,
    shift_features,
    translation_invariant_downsample2d,
    undoing_losses,
)
from stillpoint.core.layers.translation_invariant import Response
from stillpoint.core.layers.translation_losses import draw_shift, watch


def definition(x, weight, scale, extension):
    """The layer pixel by pixel: weights by quadrant, the column first, of phases, the row first."""
    mode = {"reflect": "reflect", "replicate": "edge", "zeros": "constant"}[extension]
    x = np.pad(x, [(0, 0), (0, 0), (x.shape[2] % 2, 0), (x.shape[3] % 2, 0)], mode=mode)
    batch, channels, height, width = x.shape
    k = weight.shape[-1]
    padded = np.pad(x, [(0, 0), (0, 0), ((k - 1) // 2,) * 2, ((k - 1) // 2,) * 2])
    h, w = height, width
    if k % 2 == 0:
        h, w = height - 1, width - 1
    psi = np.zeros((batch, channels, h, w))
    for i in range(k):
        for j in range(k):
            psi += weight[None, :, 0, i, j, None, None] * padded[:, :, i : i + h, j : j + w]
    psi = psi.clip(0)
    rows, columns = [slice(0, -(-h // 2)), slice(h // 2, h)], [slice(0, -(-w // 2)), slice(w // 2, w)]
    q = np.stack([psi[:, :, r, c].mean((2, 3)) for r in rows for c in columns], 2) * scale.reshape(1, -1, 1)
    tau = np.exp(q) / np.exp(q).sum(2, keepdims=True)
    phases = [x[:, :, r::2, c::2] for c in (0, 1) for r in (0, 1)]
    return sum(tau[:, :, n, None, None] * phases[n] for n in range(4)), psi, tau


def given(*shape, k=3, dtype=torch.float64):
    torch.manual_seed(0)
    channels = shape[1]
    return (
        torch.randn(shape, dtype=dtype),
        torch.randn(channels, 1, k, k, dtype=dtype),
        3 * torch.randn(channels, 1, 1, 1, dtype=dtype),
    )


@pytest.mark.parametrize("extension", ["reflect", "replicate", "zeros"])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 7, 9), (1, 17, 6, 10), (2, 3, 2, 2)])
def test_values_are_the_definition(shape, k, extension):
    x, weight, scale = given(*shape, k=k)
    y, seen = translation_invariant_downsample2d(x, weight, scale=scale, extension=extension, return_response=True)
    want_y, psi, tau = definition(x.numpy(), weight.numpy(), scale.numpy(), extension)
    for got, want in ((y, want_y), (seen.psi, psi), (seen.tau, tau)):
        torch.testing.assert_close(got, torch.from_numpy(want))
    assert torch.equal(translation_invariant_downsample2d(x, weight, scale=scale, extension=extension), y)


def test_odd_sides_are_extended_at_the_top_and_the_left():
    x, weight, _ = given(1, 1, 3, 3)
    y = translation_invariant_downsample2d(x, weight, scale=torch.zeros(1, 1, 1, 1), extension="zeros")
    torch.testing.assert_close(y[0, 0, 0, 0], x[0, 0, 0, 0] / 4)


def test_a_quadrant_top_right_weighs_the_odd_rows():
    x = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    x[..., :4, 4:] = 1
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    weight[..., 1, 1] = 1
    _, seen = translation_invariant_downsample2d(
        x, weight, scale=torch.full((1, 1, 1, 1), 50.0, dtype=torch.float64), return_response=True
    )
    assert seen.tau.argmax(2).item() == 1  # of the phases (0,0), (1,0), (0,1), (1,1)


def test_without_a_scale_it_is_average_pooling():
    x, weight, scale = given(2, 5, 8, 6)
    y = translation_invariant_downsample2d(x, weight, scale=0 * scale)
    torch.testing.assert_close(y, F.avg_pool2d(x, 2))


def test_weights_of_any_layout_are_read_as_they_are():
    # their packed copies must live until the kernel has read them, forward and backward
    x, channels = torch.randn(2, 64, 8, 8), 64
    weight, scale = torch.randn(channels, 1, 3, 6)[..., ::2], torch.randn(1, 1, 1, 1).expand(channels, 1, 1, 1)
    found = []
    for w, s in ((weight, scale), (weight.contiguous(), scale.contiguous())):
        leaves = [t.detach().requires_grad_() for t in (x, w, s)]
        y = translation_invariant_downsample2d(leaves[0], leaves[1], scale=leaves[2])
        found.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
        with torch.no_grad():
            assert torch.equal(translation_invariant_downsample2d(x, w, scale=s), y)
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


def test_it_does_not_commute_with_shifts_not_even_by_its_stride():
    """The mean of the output changes by several percent, which that of average pooling does not."""
    x, weight, scale = given(4, 8, 8, 8)
    means = translation_invariant_downsample2d(x, weight, scale=scale).mean((2, 3))
    for shift in ((1, 0), (2, 0), (2, 2), (4, 4)):
        moved = translation_invariant_downsample2d(x.roll(shift, (2, 3)), weight, scale=scale).mean((2, 3))
        change = ((moved - means).norm() / means.norm()).item()
        assert change > 0.05, f"{shift}: {change}"
        pooled = F.avg_pool2d(x.roll(shift, (2, 3)), 2).mean((2, 3))
        torch.testing.assert_close(pooled, F.avg_pool2d(x, 2).mean((2, 3)))


@pytest.mark.parametrize("k", [2, 3])
def test_gradients(k):
    x, weight, scale = given(2, 3, 4, 6, k=k)
    parts = [part.requires_grad_() for part in (x, weight, scale)]

    def all_of_it(x, weight, scale):
        y, seen = translation_invariant_downsample2d(x, weight, scale=scale, return_response=True)
        return y, seen.psi, seen.tau

    assert torch.autograd.gradcheck(all_of_it, parts) and torch.autograd.gradgradcheck(all_of_it, parts)


def test_the_module_is_the_function_the_same_in_training_and_evaluation():
    layer, x = TranslationInvariantDownsample2d(5, dtype=torch.float64), given(2, 5, 8, 6)[0]
    y = translation_invariant_downsample2d(x, layer.psi.weight, scale=layer.scale.weight)
    assert torch.equal(layer(x), y) and torch.equal(layer.eval()(x), y)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "psi.weight": (5, 1, 3, 3),
        "scale.weight": (5, 1, 1, 1),
    }


def test_the_depthwise_kernels_fan_out_to_all_channels():
    torch.manual_seed(0)
    layer = TranslationInvariantDownsample2d(512)
    assert abs(layer.psi.weight.std() / (2 / (9 * 512)) ** 0.5 - 1) < 0.05
    assert abs(layer.scale.weight.std() / (2 / 512) ** 0.5 - 1) < 0.15


def test_wrong_use_says_what_is_allowed():
    x, weight, scale = given(2, 3, 8, 8)
    for call, words in (
        (lambda: TranslationInvariantDownsample2d(3, 3), "stride 2 only, got 3"),
        (lambda: TranslationInvariantDownsample2d(3, size=0), "size must be a positive integer, got 0"),
        (
            lambda: TranslationInvariantDownsample2d(3, extension="circular"),
            "extension must be one of reflect, replicate, zeros, got 'circular'",
        ),
        (lambda: translation_invariant_downsample2d(x[:, :2], weight, scale=scale), "a map of 2 channels needs"),
        (lambda: translation_invariant_downsample2d(x[..., :1], weight, scale=scale), "a map of 8x1 has no quadrants"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# The losses


def test_a_shift_rolls_or_loses_what_leaves():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert torch.equal(shift_features(x, shift=(1, -2), kind="circular"), x.roll((1, -2), (2, 3)))
    y = shift_features(x, shift=(1, -2))
    assert y[0, 0].tolist() == [[0, 0, 0, 0], [2, 3, 0, 0], [6, 7, 0, 0]]
    assert not shift_features(x, shift=(0, 4)).any() and not shift_features(x, shift=(-3, 0)).any()
    with pytest.raises(ValueError, match="circular, standard, got 'zoom'"):
        shift_features(x, shift=(0, 0), kind="zoom")


def test_shifts_are_functions_of_their_key_and_reach_both_bounds():
    drawn = [draw_shift((2, 1), 0, epoch, 0) for epoch in range(300)]
    assert {i for i, _ in drawn} == {-2, -1, 0, 1, 2} and {j for _, j in drawn} == {-1, 0, 1}
    assert draw_shift((2, 1), 0, 7, 0) == drawn[7]


def response(x, psi, tau):
    return Response(x, psi, tau)


def test_even_weights_cost_a_half_and_one_hot_ones_nothing():
    x = torch.zeros(2, 3, 4, 4)
    even, hot = torch.full((2, 3, 4), 0.25), torch.eye(4)[torch.zeros(2, 3, dtype=torch.int64)]
    assert evenness_penalty([response(x, x, even)]).item() == pytest.approx(0.5)
    assert evenness_penalty([response(x, x, hot)]).item() == 0.0
    # channels of all layers count alike
    wide = response(x[:, :1].repeat(1, 9, 1, 1), x, even[:, :1].repeat(1, 9, 1))
    assert evenness_penalty([wide, response(x, x, hot)]).item() == pytest.approx(0.5 * 9 / 12)


def test_levels_count_alike_and_layers_of_a_level_by_their_channels():
    torch.manual_seed(0)
    sizes = [(2, 3, 8, 8), (2, 4, 4, 4), (2, 2, 4, 4)]
    found = [response(torch.randn(s), torch.randn(s), torch.zeros(s[0], s[1], 4)) for s in sizes]
    shifts = [(1, 0), (0, -1), (2, 2)]
    got = undoing_losses(found, shifts=shifts, kind="circular")
    errors = [(r.psi - r.x.roll(s, (2, 3))).square() for r, s in zip(found, shifts, strict=True)]
    torch.testing.assert_close(got, torch.stack([errors[0].mean(), torch.cat(errors[1:], 1).mean()]))


def test_the_target_is_detached_unless_told():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    psi = (2 * x.detach()).requires_grad_()
    seen = response(x, psi, torch.zeros(2, 3, 4))
    undoing_losses([seen], shifts=[(1, 1)], kind="circular").sum().backward()
    assert x.grad is None and psi.grad is not None
    undoing_losses([seen], shifts=[(1, 1)], kind="circular", detach=False).sum().backward()
    torch.testing.assert_close(x.grad, -(psi - x.roll((1, 1), (2, 3))).roll((-1, -1), (2, 3)) * 2 / x.numel())


def test_losses_refuse_what_does_not_fit():
    x = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="1 responses need as many shifts, got 2"):
        undoing_losses([response(x, x, x)], shifts=[(0, 0), (0, 0)])
    with pytest.raises(ValueError, match=r"psi of shape \(1, 2, 3, 3\) cannot match a map of shape \(1, 2, 4, 4\)"):
        undoing_losses([response(x, x[..., 1:, 1:], x)], shifts=[(0, 0)])


def test_a_net_is_watched_only_within_the_context():
    net = nn.Sequential(TranslationInvariantDownsample2d(3), TranslationInvariantDownsample2d(3))
    x = torch.randn(2, 3, 8, 8)
    with watch(net) as seen:
        y = net(x)
    assert [tuple(r.x.shape[2:]) for r in seen] == [(8, 8), (4, 4)]
    assert torch.equal(net(x), y) and len(seen) == 2
