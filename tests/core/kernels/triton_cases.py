"""Run by test_triton_pool.py in a process of its own, where TRITON_INTERPRET=1: every law on the CPU, tiny inputs."""

import itertools
import os

assert os.environ["TRITON_INTERPRET"] == "1"

import torch  # noqa: E402

from core.kernels import pool, triton_pool  # noqa: E402

LAYOUTS = (torch.contiguous_format, torch.channels_last)
torch.manual_seed(0)


def map_of(shape, layout, dtype=torch.float32, channels=3):
    return torch.randn(2, channels, *shape).to(dtype).to(memory_format=layout)


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


for check in (blurs, precisions, choices, shifts, edges):
    check()
    print(check.__name__, "pass")
