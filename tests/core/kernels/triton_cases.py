"""Run by test_triton.py in a process of its own, where TRITON_INTERPRET=1: every law on the CPU, tiny inputs.

Without it (scripts/gpu_check.sh) the Triton kernels run on a GPU, and what they give is compared with the CPU's
values. A word behind the file's name is the law to try, all where there is none.
"""

import itertools
import os
import sys
from types import FunctionType

import torch

from stillpoint.core.kernels import (
    activity,
    channel_norm,
    correlation,
    framing,
    mixture,
    pool,
    proximal,
    quadratic,
    translation,
    triton_activity,
    triton_channel_norm,
    triton_correlation,
    triton_framing,
    triton_mixture,
    triton_pool,
    triton_proximal,
    triton_quadratic,
    triton_translation,
)

#: public functions of the kernels; their own calls of one another stay on the GPU
KERNELS = {
    triton_pool: ("blur_pool", "blur_pool_adjoint", "polyphase_pool", "choose_phase"),
    triton_correlation: ("correlation", "adjoint"),
    triton_proximal: ("step", "backward"),
    triton_framing: ("split", "join"),
    triton_mixture: ("mix", "spread", "weigh"),
    triton_quadratic: ("forward", "backward"),
    triton_activity: ("forward", "backward"),
    triton_channel_norm: ("forward", "backward"),
    triton_translation: ("forward", "backward"),
}


def on_the_gpu(function):
    def called(*given):
        if not any(isinstance(one, torch.Tensor) and not one.is_cuda for one in given):
            return function(*given)
        there = [one.cuda() if isinstance(one, torch.Tensor) else one for one in given]
        found = function(*there)
        for mine, theirs in zip(given, there, strict=True):
            if isinstance(mine, torch.Tensor):
                mine.copy_(theirs)  # some write their results into what they are given
        back = tuple(one.cpu() for one in (found if isinstance(found, tuple) else (found,)))
        return back if isinstance(found, tuple) else back[0]

    return called


if os.environ.get("TRITON_INTERPRET") != "1":
    for module, names in KERNELS.items():
        for name in names:
            assert isinstance(getattr(module, name), FunctionType), name
            setattr(module, name, on_the_gpu(getattr(module, name)))

LAYOUTS = (torch.contiguous_format, torch.channels_last)
torch.manual_seed(0)


def map_of(shape, layout, dtype=torch.float32, channels=3):
    return torch.randn(2, channels, *shape).to(dtype).to(memory_format=layout)


def paired(*choices):
    """Of three choices between two, every pair of any two in four cases: the interpreter takes seconds for each."""
    one, two, three = choices
    return [(one[a], two[b], three[a ^ b]) for a, b in itertools.product((0, 1), repeat=2)]


def same(got, want, tolerance=1e-6):
    assert got.dtype == want.dtype
    assert got.stride() == want.stride()
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def blurs():
    kinds = itertools.cycle(itertools.product((2, 3, 5), ((2, 2), (1, 3)), (False, True), (0, -1, 1)))
    for layout, padding, _ in itertools.product(LAYOUTS, ("reflect", "replicate", "zeros", "circular"), range(2)):
        size, stride, phased, pad_off = next(kinds)
        x = map_of((5, 6), layout, channels=2)
        phase = torch.tensor([0, stride[0] * stride[1] - 1]) if phased else None
        options = (size, list(stride), padding, 0 if phased else pad_off)
        want = pool._blur_pool(x, phase, *options)
        same(triton_pool.blur_pool(x, phase, *options), want)
        y = torch.randn_like(want)
        back = pool._blur_pool_adjoint(y, phase, [5, 6], *options)
        same(triton_pool.blur_pool_adjoint(y, phase, [5, 6], *options), back)


def frames():
    """A blur of one tap, evaluated beyond the border: padding."""
    for layout, margin in itertools.product(LAYOUTS, (1, 2, 7)):
        x, options = map_of((3, 4), layout), (None, 1, [1, 1], "circular", margin)
        want = pool._blur_pool(x, *options)
        same(triton_pool.blur_pool(x, *options), want, 0)
        y = torch.randn_like(want)
        back = pool._blur_pool_adjoint(y, None, [3, 4], *options[1:])
        same(triton_pool.blur_pool_adjoint(y, None, [3, 4], *options[1:]), back)


def precisions():
    for dtype, tolerance in ((torch.bfloat16, 2**-8), (torch.float16, 2**-10)):
        x = map_of((4, 4), torch.channels_last, dtype)
        got = triton_pool.blur_pool(x, None, 4, [2, 2], "reflect", 0)
        want = pool._blur_pool(x.float(), None, 4, [2, 2], "reflect", 0)
        torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=tolerance)


def choices():
    criteria = ("l2", "l1", "l_infty", "max", "l2_min", "l1_min")
    for k, criterion in enumerate(criteria):
        x = map_of(((4, 4), (5, 3))[k % 2], LAYOUTS[k // 2 % 2], channels=5)
        assert torch.equal(triton_pool.choose_phase(x, [2, 2], criterion), pool._choose_phase(x, [2, 2], criterion))
    for layout in LAYOUTS:
        x, options = map_of((5, 6), layout), (3, [2, 3], "circular", "l2", True)
        got, want = triton_pool.polyphase_pool(x, *options), pool._polyphase_pool(x, *options)
        assert torch.equal(got[1], want[1])
        same(got[0], want[0])


def shifts():
    for layout, (i, j) in zip(LAYOUTS, ((3, 1), (0, 5)), strict=True):
        x = map_of((6, 4), layout, channels=2)
        y, k = triton_pool.polyphase_pool(x, 3, [2, 2], "circular", "l2", True)
        moved = x.roll((i, j), (2, 3)).contiguous(memory_format=layout)
        z, _ = triton_pool.polyphase_pool(moved, 3, [2, 2], "circular", "l2", True)
        for image, other, phase in zip(y, z, k.tolist(), strict=True):
            assert torch.equal(other, image.roll(((phase % 2 + i) // 2, (phase // 2 + j) // 2), (1, 2)))


def edges():
    assert triton_pool.blur_pool(torch.zeros(0, 3, 8, 8), None, 3, [2, 2], "reflect", 0).shape == (0, 3, 4, 4)
    one = torch.randn(2, 3, 1, 1)
    same(triton_pool.blur_pool(one, None, 4, [2, 2], "circular", 0), one)
    x = map_of((4, 4), torch.contiguous_format)
    x[1, 2, 3, 0] = float("nan")
    for criterion in ("l2", "max", "l_infty"):
        assert torch.equal(triton_pool.choose_phase(x, [2, 2], criterion), pool._choose_phase(x, [2, 2], criterion))


def magnitudes():
    """Images whose squares over- or underflow beside ordinary ones: chosen and sampled as on an ordinary scale."""
    for layout, criterion, after_blur in paired(LAYOUTS, ("l2", "l1_min"), (False, True)):
        x = torch.rand(4, 2, 4, 6).to(memory_format=layout)
        scales = torch.tensor([2.0**100, 1.0, 2.0**-100, 0.0]).view(4, 1, 1, 1)
        options = (3, [2, 3], "circular", criterion, after_blur)
        y, phase = triton_pool.polyphase_pool(x, *options)
        big, same_phase = triton_pool.polyphase_pool(x * scales, *options)
        assert torch.equal(same_phase[:3], phase[:3]) and same_phase[3] == 0
        assert torch.equal(big[:3], (y * scales)[:3])
        assert torch.equal(pool._polyphase_pool(x * scales, *options)[1], same_phase)
    x[:, :, 1, 1] = float("inf")
    assert torch.equal(triton_pool.choose_phase(x, [2, 2], "l2"), torch.full((4,), 3))


def correlations():
    cases = ((1, 2, 5, 2, 3), (2, 5, 6, 2, 1), (2, 17, 3, 1, 0), (1, 3, 4, 3, 0), (2, 1, 7, 4, 6))
    for (inputs, filters, taps, stride, before), axis in itertools.product(cases, (2, 3)):
        shape = (2, inputs, 13, 3) if axis == 2 else (2, inputs, 3, 13)
        x = torch.randn(shape)
        weight = torch.randn(filters, inputs, *((taps, 1) if axis == 2 else (1, taps)))
        options = (axis, stride, before)
        want = correlation._correlation(x, weight, *options)
        same(triton_correlation.correlation(x, weight, *options), want, 1e-5)
        y = torch.randn_like(want)
        back = correlation._adjoint(y, weight, *options, 13)
        same(triton_correlation.adjoint(y, weight, *options, 13), back, 1e-5)
    half = triton_correlation.correlation(x.bfloat16(), weight.bfloat16(), *options)
    torch.testing.assert_close(half.float(), want, rtol=2**-6, atol=2**-6)
    assert triton_correlation.correlation(x[:0], weight, *options).shape == (0, *want.shape[1:])
    assert triton_correlation.adjoint(y[:0], weight, *options, 13).shape == (0, *x.shape[1:])


def steps():
    shrink, threshold = torch.tensor(0.8), torch.tensor(0.3)
    for layout, nonnegative, both in itertools.product(LAYOUTS, (False, True), (False, True)):
        moved, code, before, grad = (map_of((7, 5), layout) for _ in range(4))
        code = code.contiguous()  # of another layout: the result has that of the first
        previous = before if both else None
        options = (moved, code, previous, shrink, threshold, 0.4, nonnegative)
        want = proximal._step(*options)
        same(triton_proximal.step(*options), want)
        assert 0.1 < (want == 0).float().mean() < 0.8
        got = triton_proximal.backward(grad, want, shrink, 0.4, both)
        for mine, exact in zip(got, proximal._backward(grad, want, shrink, 0.4, both), strict=True):
            same(mine, exact)
    moved[0, 0, 0, 0] = float("nan")
    for nonnegative in (False, True):
        assert triton_proximal.step(moved, code, None, shrink, threshold, 0.0, nonnegative).isnan().sum() == 1


def mixtures():
    for layout, own in itertools.product(LAYOUTS, (False, True)):
        x, last = map_of((4, 6), layout, channels=5), layout is torch.channels_last
        weights = torch.randn(2, 5, 4) if own else torch.randn(2, 4)
        want = mixture._output(x, weights)
        y, back, sums = torch.empty_like(want), torch.empty_like(x), torch.empty_like(weights)
        triton_mixture.mix(x, weights, y, last)
        same(y, want)
        triton_mixture.spread(back, weights, want, last)
        same(back, mixture._input(want, weights))
        triton_mixture.weigh(x, sums, want, last)
        same(sums, mixture._weights(x, want, not own), 1e-5)
    triton_mixture.mix(x.bfloat16(), weights, half := torch.empty_like(y, dtype=torch.bfloat16), last)
    torch.testing.assert_close(half.float(), want, rtol=2**-6, atol=2**-6)
    triton_mixture.weigh(x[:0], empty := torch.ones(0, 5, 4), want[:0], last)
    assert empty.shape == (0, 5, 4)


def frames_of_phases():
    for layout, wraps, shape in itertools.product(LAYOUTS, (False, True), ((4, 6), (2, 4), (2, 2))):
        x, last = map_of(shape, layout, channels=5), layout is torch.channels_last
        want = framing._split(x, wraps)
        triton_framing.split(x, y := torch.empty_like(want), wraps, last)
        same(y, want, 0)
        grad = torch.randn_like(want)
        triton_framing.join(back := torch.empty_like(x), grad, wraps, last)
        same(back, framing._join(grad, wraps))
    triton_framing.split(x.bfloat16(), half := torch.empty_like(y, dtype=torch.bfloat16), wraps, last)
    assert torch.equal(half, y.bfloat16())


def polynomials():
    for layout in LAYOUTS:
        x, grad, last = map_of((5, 7), layout), map_of((5, 7), layout), layout is torch.channels_last
        terms = torch.randn(3, 3)
        same(triton_quadratic.forward(x, terms, last), quadratic._quadratic(x, terms))
        got, want = triton_quadratic.backward(grad, x, terms, last), quadratic._backward(grad, x, terms)
        for mine, exact in zip(got, want, strict=True):
            same(mine, exact, 1e-5)
    assert triton_quadratic.backward(grad[:0], x[:0], terms, True)[1].tolist() == [[0.0] * 3] * 3


def activities():
    for layout in LAYOUTS:
        x, last = map_of((5, 7), layout, channels=5), layout is torch.channels_last
        same(triton_activity.forward(x, last), want := activity._mean(x))
        grad = torch.randn_like(want)
        same(triton_activity.backward(grad, x, last), activity._backward(grad, x))
    torch.testing.assert_close(triton_activity.forward(x.bfloat16(), last), want, rtol=2**-6, atol=2**-6)
    x[1, 2, 3, 4] = float("nan")
    assert triton_activity.forward(x, last).isnan().nonzero().tolist() == [[1, 2]]
    same(triton_activity.backward(grad, x, last), activity._backward(grad, x))
    assert triton_activity.forward(x[:0], last).shape == (0, 5)


def norms():
    for layout, whole, shape in paired(LAYOUTS, (False, True), ((5, 7), (12, 12))):
        x, grad, last = map_of(shape, layout, channels=6), map_of(shape, layout, channels=6), layout == LAYOUTS[1]
        weight, bias = torch.randn(6), torch.randn(6)
        want = channel_norm._norm(x, weight, bias, whole, 1e-3)
        got = [torch.empty_like(part) for part in want]
        triton_channel_norm.forward(x, weight, bias, *got, 1e-3, last)
        for mine, exact in zip(got, want, strict=True):
            same(mine, exact, 1e-5)
        exact = channel_norm._gradients(grad, x, weight, *want[1:])
        to_x, to_weights = torch.empty_like(x), torch.empty(2, 2, 6)
        triton_channel_norm.backward(grad, x, weight, *want[1:], to_x, to_weights, last)
        same(to_x, exact[0], 1e-5)
        same(to_weights.sum(0), exact[1], 1e-4)


def translations():
    # quadrants of one pixel, and of several with an inside
    for layout, keep, shape in paired(LAYOUTS, (False, True), ((2, 2), (8, 10))):
        # a program for every plane, or for all channels of a pixel
        last, channels = layout is torch.channels_last, 5 if layout is torch.channels_last else 2
        x, weight, scale = map_of(shape, layout, channels=channels), torch.randn(channels, 9), 3 * torch.randn(channels)
        want = translation._sample(x, weight, scale, keep)
        got = [torch.empty_like(part) for part in want]
        triton_translation.forward(x, weight, scale, *got[:2], got[2] if keep else None, last)
        for mine, exact in zip(got, want, strict=True):
            same(mine, exact, 1e-5)
        to_y = torch.randn_like(want[0])
        others = (torch.randn(2, channels, 4), torch.randn_like(x)) if keep else (None, None)
        exact = translation._gradients(x, weight, scale, to_y, *others)
        to_x, to_weights = torch.empty_like(x), torch.empty(2, channels, 10)
        triton_translation.backward(x, weight, scale, to_y, *others, to_x, to_weights, last)
        same(to_x, exact[0], 1e-4)
        same(to_weights.sum(0), exact[1], 1e-4)


CHECKS = (
    *(blurs, frames, precisions, choices, shifts, edges, magnitudes, correlations, steps),
    *(mixtures, frames_of_phases, activities, translations, polynomials, norms),
)
for check in CHECKS:
    if check.__name__ in sys.argv[1:] or not sys.argv[1:]:
        check()
        print(check.__name__, "pass")
