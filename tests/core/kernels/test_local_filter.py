import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from stillpoint.core.kernels import local_filter
from stillpoint.core.layers import adaptive_blur
from stillpoint.core.layers.adaptive_blur import adaptive_blur2d

PADDINGS = ("reflect", "replicate", "zeros", "circular")
LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture
def plain(monkeypatch):
    """The layer's plain PyTorch."""

    def run(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(adaptive_blur.local_filter, "fused", lambda *all, **more: False)
            return adaptive_blur2d(*args, **options)

    return run


def operands(height, width, stride, size, *, channels=6, groups=3, dtype=torch.float64, layout=LAYOUTS[0]):
    torch.manual_seed(0)
    h, w = -(-height // stride[0]), -(-width // stride[1])
    x = torch.randn(2, channels, height, width, dtype=dtype)
    logits = torch.randn(2, groups * size**2, h, w, dtype=dtype)
    return tuple(v.to(memory_format=layout).requires_grad_() for v in (x, logits))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_kernel_and_its_gradients_are_those_of_the_plain_code(plain, padding, size):
    shapes = [(5, 7), (6, 8), (11, 4)]
    for (height, width), stride, layout in itertools.product(shapes, [(1, 1), (2, 2), (1, 3), (4, 2)], LAYOUTS):
        x, logits = operands(height, width, stride, size, layout=layout)
        options = {"size": size, "stride": stride, "padding": padding}
        assert local_filter.fused(x, logits, size=size, padding=padding)
        y, want = adaptive_blur2d(x, logits, **options), plain(x, logits, **options)
        torch.testing.assert_close(y, want)
        assert y.is_contiguous(memory_format=layout)
        seed = torch.randn_like(want)
        found, exact = (torch.autograd.grad(v, (x, logits), seed) for v in (y, want))
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize(("shape", "stride"), [((1, 1), (2, 2)), ((1, 2), (1, 3)), ((2, 1), (3, 4)), ((3, 1), (5, 1))])
def test_maps_smaller_than_a_step_are_read_within_their_bounds(plain, shape, stride):
    for size, padding in ((1, "zeros"), (3, "zeros"), (3, "replicate"), (5, "circular")):
        x, logits = operands(*shape, stride, size)
        options = {"size": size, "stride": stride, "padding": padding}
        y, want = adaptive_blur2d(x, logits, **options), plain(x, logits, **options)
        torch.testing.assert_close(y, want)
        found, exact = (torch.autograd.grad(v.square().sum(), (x, logits)) for v in (y, want))
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("padding", PADDINGS)
def test_derivatives_of_both_orders(padding):
    x, logits = operands(4, 3, (2, 1), 3, channels=2, groups=1)

    def layer(x, logits):
        return adaptive_blur2d(x, logits, size=3, stride=(2, 1), padding=padding)

    assert gradcheck(layer, (x, logits))
    assert gradgradcheck(layer, (x, logits))


def test_the_three_operators_are_derivatives_of_one_form():
    x, weights = operands(5, 4, (2, 2), 3)
    y = torch.randn(2, 6, 3, 2, dtype=x.dtype)
    options = (3, [2, 2], "reflect")
    form = (local_filter._output(x, weights, *options) * y).sum()
    torch.testing.assert_close((local_filter._input(y, weights, [5, 4], *options) * x).sum(), form)
    torch.testing.assert_close((local_filter._weights(x, y, 3, *options) * weights).sum(), form)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_operators_pass_the_checks_of_pytorch(layout):
    x, weights = operands(4, 6, (2, 2), 3, dtype=torch.float32, layout=layout)
    y = torch.randn(2, 6, 2, 3, requires_grad=True)
    options = (3, [2, 2], "circular")
    torch.library.opcheck(local_filter._output.overload, (x, weights, *options))
    torch.library.opcheck(local_filter._input.overload, (y, weights, [4, 6], *options))
    torch.library.opcheck(local_filter._weights.overload, (x, y, 3, *options))


def test_strides_of_any_kind_are_read(plain):
    x, logits = operands(6, 6, (2, 2), 3)
    turned = x.detach().transpose(2, 3)
    torch.testing.assert_close(
        adaptive_blur2d(turned, logits, size=3, stride=2), plain(turned.contiguous(), logits, size=3, stride=2)
    )
    spread = torch.ones(1, 1, 1, 1, dtype=x.dtype).expand(2, 6, 3, 3)
    weights = logits.detach().softmax(1)
    options = (3, [2, 2], "reflect")
    found = local_filter._input(spread, weights, [6, 6], *options)
    torch.testing.assert_close(found, local_filter._input(spread.contiguous(), weights, [6, 6], *options))


def test_bfloat16_is_added_up_in_float32(plain):
    x, logits = (v.detach() for v in operands(8, 8, (2, 2), 3, dtype=torch.bfloat16))
    got = adaptive_blur2d(x, logits, size=3, stride=2)
    weights = logits.softmax(1)
    want = local_filter._output(x.float(), weights.float(), 3, [2, 2], "reflect")
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=2**-8, atol=0)


def test_threads_change_no_bit():
    x, weights = operands(9, 9, (2, 2), 3, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            y = local_filter.local_filter2d(x, weights, size=3, stride=(2, 2), padding="reflect")
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, weights))))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_a_shift_of_input_and_weights_shifts_every_bit():
    x, weights = (v.detach() for v in operands(8, 10, (2, 2), 3, dtype=torch.float32))
    y = local_filter._output(x, weights, 3, [2, 2], "circular")
    moved = local_filter._output(x.roll((4, 2), (2, 3)), weights.roll((2, 1), (2, 3)), 3, [2, 2], "circular")
    assert torch.equal(moved, y.roll((2, 1), (2, 3)))


def test_torch_compile_takes_the_operator_without_a_graph_break():
    x, logits = operands(6, 6, (2, 2), 3, dtype=torch.float32)
    compiled = torch.compile(
        lambda x, logits: adaptive_blur2d(x, logits, size=3, stride=2), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(x, logits), adaptive_blur2d(x, logits, size=3, stride=2))
