import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillpoint.core.kernels import native, packets
from stillpoint.core.layers.packet_halves import PacketHalves2d
from stillpoint.core.layers.wavelet_packets import WaveletPackets2d

KINDS = (WaveletPackets2d, PacketHalves2d)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    assert native.available("double", "packets"), "these tests need a C++ compiler"


def image(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def both(layer: WaveletPackets2d, x: Tensor, **window) -> tuple[Tensor, Tensor, Tensor]:
    """Output and gradient of a layer, for weights that are as random as its input."""
    x = x.detach().requires_grad_()
    y = layer(x, **window)
    weights = image(*y.shape, seed=1, dtype=y.dtype)
    return y.detach(), weights, torch.autograd.grad(y, x, weights)[0]


def plain(layer: WaveletPackets2d, x: Tensor, **window) -> tuple[Tensor, Tensor, Tensor]:
    fused, layer.fused = layer.fused, None
    try:
        return both(layer, x, **window)
    finally:
        layer.fused = fused


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    depth=st.integers(1, 3),
    log_stride=st.integers(0, 3),
    part=st.sampled_from(["complex", "real"]),
    padding=st.sampled_from(["zeros", "circular", "valid"]),
    packet=st.none() | st.sets(st.integers(0, 3), min_size=1),
    size=st.tuples(st.integers(6, 50), st.integers(6, 50)),
    data=st.data(),
)
def test_values_and_gradients_are_those_of_the_two_passes(kind, depth, log_stride, part, padding, packet, size, data):
    maps = None if packet is None else [q for n in packet for q in (n + 4**depth, n)]
    options = {"maps": maps, "part": part, "padding": padding, "dtype": torch.float64}
    layer = kind(depth, 2 ** min(log_stride, depth), **options)
    x = image(2, 3, *(n + 66 for n in size) if padding == "valid" else size)
    whole = [layer.output_size(n) for n in x.shape[2:]]
    start = [data.draw(st.integers(0, n - 1)) for n in whole]
    window = {
        "start": start,
        "size": [data.draw(st.integers(1, n - first)) for n, first in zip(whole, start, strict=True)],
        "every": data.draw(st.integers(1, 3)),
    }
    assert layer.fused is not None and packets.fused(x, layer.fused.packets)
    for chosen in ({}, window):
        torch.testing.assert_close(both(layer, x, **chosen), plain(layer, x, **chosen), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3)])
def test_other_numbers_are_as_near_as_their_digits(kind, dtype, digits):
    layer, exact = kind(3, 4, padding="circular").to(dtype), kind(3, 4, padding="circular", dtype=torch.float64)
    x = image(1, 2, 61, 45, dtype=dtype)
    y, weights, gradient = both(layer, x)
    assert y.dtype == gradient.dtype == dtype
    wanted = plain(exact, x.double())[0]
    assert (y.double() - wanted).abs().max() < digits * wanted.abs().max()
    inner = x.double().requires_grad_()
    exact.fused = None
    (wanted,) = torch.autograd.grad(exact(inner), inner, weights.double())
    assert (gradient.double() - wanted).abs().max() < digits * wanted.abs().max()


def test_one_map_alone_or_maps_that_are_not_conjugated_are_left_to_the_two_passes():
    assert WaveletPackets2d(2, 2, maps=[1, 17, 3]).fused is None
    assert WaveletPackets2d(2, 2, analytic=False).fused is None
    assert WaveletPackets2d(2, 2, maps=[17, 1]).fused is not None


@pytest.mark.parametrize("kind", KINDS)
def test_circular_shifts_by_the_stride_shift_every_bit(kind):
    layer = kind(2, 4, padding="circular")
    x = image(1, 2, 44, 52, dtype=torch.float32)
    assert torch.equal(layer(x.roll((8, -12), (2, 3))), layer(x).roll((2, -3), (4, 5)))


def test_a_batch_and_threads_change_no_bit():
    layer, x = WaveletPackets2d(2, 2), image(3, 2, 21, 34, dtype=torch.float32)
    y, _, gradient = both(layer, x)
    assert torch.equal(layer(x[1:2]), y[1:2])
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        again, _, its_gradient = both(layer, x)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again, y) and torch.equal(its_gradient, gradient)
    assert layer(x[:0]).shape == (0, *y.shape[1:])


def test_any_memory_layout():
    layer, x = WaveletPackets2d(2, 2), image(2, 3, 20, 18, dtype=torch.float32)
    for other in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT, x.repeat_interleave(2, 3)[..., ::2]):
        assert torch.equal(layer(other), layer(x))


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_both_orders(kind):
    layer = kind(1, 2, maps=[1, 5], padding="circular", dtype=torch.float64)
    x = image(1, 1, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(lambda v: layer(v) ** 2, x)


@pytest.mark.parametrize("circular", (False, True))
def test_the_operators_obey_the_rules_of_operators(circular):
    fused = WaveletPackets2d(2, 2, dtype=torch.float64).fused
    assert fused is not None
    x = image(1, 2, 9, 11).requires_grad_()
    filters = (*fused.packets[:3], True, 2, [3, -1])
    torch.library.opcheck(packets._packets.overload, (x, *filters, [4, 5], circular))
    y = image(1, 2, 32, 2, 4, 5).requires_grad_()
    torch.library.opcheck(packets._adjoint.overload, (y, *filters, [9, 11], circular))


def test_torch_compile_takes_it_without_a_graph_break():
    layer, x = WaveletPackets2d(1, 2, part="real"), image(1, 1, 12, 9, dtype=torch.float32).requires_grad_()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    grads = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled, layer)]
    torch.testing.assert_close(*grads)


def test_torch_func_and_an_export_see_the_two_passes():
    layer, x = WaveletPackets2d(1, 2, dtype=torch.float64), image(3, 1, 8, 8)
    torch.testing.assert_close(torch.func.vmap(lambda v: layer(v[None])[0])(x), layer(x))
    _, tangent = torch.func.jvp(layer, (x,), (x,))
    torch.testing.assert_close(tangent, layer(x))
    graph = torch.export.export(layer, (x,)).graph
    assert not any("stillpoint" in str(node.target) for node in graph.nodes)


def test_autocast_works_in_its_numbers_and_gives_a_gradient_in_those_of_the_input():
    layer, x = WaveletPackets2d(2, 2), image(1, 1, 16, 16, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=0.05, rtol=0.02)
    assert torch.autograd.grad(y.float().sum(), x)[0].dtype == torch.float32


def test_filters_of_other_numbers_than_the_image_are_refused_as_by_a_convolution():
    with pytest.raises(RuntimeError):
        WaveletPackets2d(2, 2)(image(1, 1, 16, 16))
