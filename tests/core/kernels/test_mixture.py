"""The kernels of mixtures, and of translation invariant sampling, beside plain PyTorch."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from stillpoint.core.kernels import mixture, translation
from stillpoint.core.layers import mix_phases, spread_phases, translation_invariant_downsample2d

LAYOUTS = (torch.contiguous_format, torch.channels_last)
SHAPES = [(2, 3, 6, 10), (3, 20, 8, 8), (1, 1, 2, 2), (2, 9, 4, 36)]


@pytest.fixture
def plain(monkeypatch):
    """Runs a function with the kernels switched off."""

    def run(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(mixture, "fused", lambda *all: False)
            patch.setattr(translation, "fused", lambda *all: False)
            return function(*args, **options)

    return run


def near(dtype):
    return {torch.float64: {}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}.get(dtype, {"rtol": 0.05, "atol": 0.06})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_mixtures_and_their_gradients_are_those_of_the_plain_code(plain, dtype):
    for shape, layout, own in itertools.product(SHAPES, LAYOUTS, (False, True)):
        torch.manual_seed(0)
        x = torch.randn(shape, dtype=dtype).to(memory_format=layout).requires_grad_()
        weights = torch.randn(*shape[: 2 if own else 1], 4, dtype=dtype).requires_grad_()
        assert mixture.fused(x)
        for function, given in ((mix_phases, x), (spread_phases, x)):
            y, want = function(given, weights), plain(function, given, weights)
            torch.testing.assert_close(y, want, **near(dtype))
            assert y.is_contiguous(memory_format=layout)
            seed = torch.randn_like(want)
            found, exact = (torch.autograd.grad(v, (x, weights), seed) for v in (y, want))
            if dtype != torch.bfloat16:
                torch.testing.assert_close(found, exact, **near(dtype))


def test_maps_that_are_not_packed_are_taken_too(plain):
    x = torch.randn(2, 3, 8, 20)[..., ::2]
    weights = torch.rand(2, 4)
    torch.testing.assert_close(mix_phases(x, weights), plain(mix_phases, x, weights))
    y = torch.randn(2, 4, 3, 8).permute(0, 2, 1, 3)
    torch.testing.assert_close(spread_phases(y, weights), plain(spread_phases, y, weights))


@pytest.mark.parametrize("own", [False, True])
def test_derivatives_of_every_order(own):
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(*((2, 3, 4) if own else (2, 4)), dtype=torch.float64, requires_grad=True)
    for function, given in ((mix_phases, x), (spread_phases, x[..., :3])):
        assert gradcheck(function, (given, weights)) and gradgradcheck(function, (given, weights))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_translation_invariant_sampling_is_that_of_the_plain_code(plain, dtype, layout):
    for shape in SHAPES:
        torch.manual_seed(0)
        x = torch.randn(shape, dtype=dtype).to(memory_format=layout).requires_grad_()
        weight = torch.randn(shape[1], 1, 3, 3, dtype=dtype).requires_grad_()
        scale = (3 * torch.randn(shape[1], 1, 1, 1, dtype=dtype)).requires_grad_()
        assert translation.fused(x, weight)
        parts, options = (x, weight, scale), {"scale": scale, "return_response": True}
        results = []
        for run in (lambda f, *a, **o: f(*a, **o), plain):
            y, seen = run(translation_invariant_downsample2d, x, weight, **options)
            results.append((y, seen.tau, seen.psi))
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, **near(dtype))
        assert results[0][0].is_contiguous(memory_format=layout)
        if dtype == torch.bfloat16:
            continue
        seeds = [torch.randn_like(v) for v in results[0]]
        for used in ((0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)):
            found, exact = (
                torch.autograd.grad(
                    [outputs[n] for n in used], parts, [seeds[n] for n in used], retain_graph=True, allow_unused=True
                )
                for outputs in results
            )
            for got, want in zip(found, exact, strict=True):
                if want is None:
                    assert got is None
                else:
                    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 if dtype == torch.float32 else 1e-7)


def test_a_nan_stays_one():
    x = torch.randn(1, 2, 4, 4)
    x[0, 1, 2, 2] = float("nan")
    weight, scale = torch.randn(2, 1, 3, 3), torch.ones(2, 1, 1, 1)
    _, seen = translation_invariant_downsample2d(x, weight, scale=scale, return_response=True)
    assert seen.tau[0, 0].isfinite().all() and seen.tau[0, 1].isnan().all() and seen.psi[0, 1].isnan().any()


@pytest.mark.parametrize("threads", [1, 2])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    before = torch.get_num_threads()
    x, weights = torch.randn(5, 6, 8, 8), torch.rand(5, 4, requires_grad=True)
    y = mix_phases(x, weights)
    (found,) = torch.autograd.grad(y.square().sum(), weights)
    try:
        torch.set_num_threads(threads)
        again = mix_phases(x, weights)
        assert torch.equal(again, y)
        assert torch.equal(torch.autograd.grad(again.square().sum(), weights)[0], found)
    finally:
        torch.set_num_threads(before)


def test_compiled_networks_call_the_operators():
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    x, weights = torch.randn(2, 3, 8, 8), torch.rand(2, 4)
    compiled = torch.compile(lambda x, w: mix_phases(x, w), backend=counter, fullgraph=True)
    torch.testing.assert_close(compiled(x, weights), mix_phases(x, weights))
    assert counter.frame_count == 1
