import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stillpoint.core.layers import (
    PADDINGS,
    BlurPool1d,
    BlurPool2d,
    BlurPool3d,
    MaxBlurPool2d,
    binomial_kernel,
    binomial_taps,
    blur_pool1d,
    blur_pool2d,
    blur_pool3d,
)
from tests.core.layers.definitions import blur

FUNCTIONS = {1: blur_pool1d, 2: blur_pool2d, 3: blur_pool3d}
MODULES = {1: BlurPool1d, 2: BlurPool2d, 3: BlurPool3d}


@pytest.mark.parametrize("size", range(1, 8))
def test_taps_sum_to_one_and_are_exact_in_every_dtype(size):
    taps = binomial_taps(size, dtype=torch.float64)
    assert taps.sum() == 1
    kernel = binomial_kernel(size, 2, dtype=torch.float64)
    assert torch.equal(kernel, torch.outer(taps, taps))
    assert torch.equal(kernel.bfloat16().double(), kernel)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("padding", PADDINGS)
def test_values_are_the_definition(dims, size, padding):
    x = torch.randn(2, 3, *(9, 6, 5)[:dims], dtype=torch.float64)
    for stride in (1, 2, 3):
        got = FUNCTIONS[dims](x, size=size, stride=stride, padding=padding)
        want = torch.from_numpy(blur(x.numpy(), size, (stride,) * dims, padding))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        assert got.shape[2:] == tuple(-(-n // stride) for n in x.shape[2:])
        module = MODULES[dims](3, stride, size=size, padding=padding, dtype=torch.float64)
        assert torch.equal(module(x), got)


@pytest.mark.parametrize("stride", [(1, 2), (2, 1), (3, 2), 4])
@pytest.mark.parametrize("pad_off", [-1, 0, 1])
def test_strides_may_differ_and_pads_may_crop(stride, pad_off):
    x = torch.randn(1, 2, 10, 13, dtype=torch.float64)
    strides = (stride, stride) if isinstance(stride, int) else stride
    for size in (1, 2, 3, 4, 5):
        got = blur_pool2d(x, size=size, stride=stride, pad_off=pad_off)
        want = torch.from_numpy(blur(x.numpy(), size, strides, "reflect", pad_off))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        assert got.shape[2:] == tuple((n + 2 * pad_off - 1) // s + 1 for n, s in zip((10, 13), strides, strict=True))


@pytest.mark.parametrize("padding", ["replicate", "circular", "zeros"])
@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_a_single_pixel_passes(padding, size):
    x = torch.randn(2, 3, 1, 1)
    y = blur_pool2d(x, size=size, padding=padding)
    assert y.shape == x.shape
    if padding != "zeros":
        torch.testing.assert_close(y, x)


@given(
    h=st.integers(1, 6), w=st.integers(1, 6), stride=st.integers(1, 3), size=st.integers(1, 7), i=st.integers(-9, 9),
    j=st.integers(-9, 9),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_a_circular_shift_by_a_multiple_of_the_stride_rolls_the_result(h, w, stride, size, i, j):
    x = torch.randn(2, 2, h * stride, w * stride, dtype=torch.float64)
    f = BlurPool2d(stride=stride, size=size, padding="circular")
    torch.testing.assert_close(f(x.roll((i * stride, j * stride), (2, 3))), f(x).roll((i, j), (2, 3)))


@pytest.mark.parametrize("padding", ["reflect", "replicate", "circular"])
def test_an_empty_batch_passes(padding):
    assert blur_pool2d(torch.zeros(0, 3, 8, 8), padding=padding).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("padding", ["reflect", "replicate", "circular"])
def test_a_constant_map_stays_that_constant(padding):
    x = torch.full((1, 2, 9, 8), 0.7, dtype=torch.float64)
    torch.testing.assert_close(blur_pool2d(x, size=5, padding=padding), x[..., ::2, ::2])


def test_rect_2_is_average_pooling_of_an_even_map():
    x = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(blur_pool2d(x, size=2), F.avg_pool2d(x, 2))


@pytest.mark.parametrize("size", [1, 4])
def test_gradient(size):
    x = torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(BlurPool2d(size=size), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_dtype_is_that_of_the_input(dtype):
    x = torch.randn(2, 3, 9, 8).to(dtype)
    layer = BlurPool2d(3)
    y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), layer(x.double()), rtol=0.02, atol=0.02)
    assert layer.double()(x).dtype == dtype


def test_autocast_does_not_round_a_float32_map():
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(blur_pool2d(x), blur_pool2d(x.clone()))
        y = blur_pool2d(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, blur_pool2d(x))


def test_channels_last_gives_the_same_values():
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(blur_pool2d(x.to(memory_format=torch.channels_last)), blur_pool2d(x))


def test_compiles_without_graph_breaks():
    layer = MaxBlurPool2d(3, max_padding=1, size=4)
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    function = torch.compile(blur_pool2d, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(function(x), blur_pool2d(x))


def test_the_filter_is_no_part_of_a_checkpoint():
    assert not BlurPool2d(8).state_dict()


def test_a_phase_moves_the_grid():
    x = torch.randn(4, 2, 8, 6)
    layer, phase = BlurPool2d(size=3), torch.arange(4)
    full = blur_pool2d(x, size=3, stride=1)
    got, returned = layer(x, phase, return_grid=True)
    assert returned is phase
    for k in range(4):
        assert torch.equal(got[k], full[k, :, k % 2 :: 2, k // 2 :: 2])
    torch.testing.assert_close(layer(x), layer(x, torch.zeros(4, dtype=torch.int64)))
    assert layer(x, return_grid=True)[1] is None


@pytest.mark.parametrize(("kernel", "padding"), [(2, 0), (3, 1), (3, 0)])
def test_max_blur_pool_is_a_dense_max_pool_then_a_blur(kernel, padding):
    x = torch.randn(2, 3, 9, 8)
    layer = MaxBlurPool2d(kernel, max_padding=padding, size=4)
    assert torch.equal(layer(x), blur_pool2d(F.max_pool2d(x, kernel, 1, padding), size=4))


@pytest.mark.parametrize("size", [0, 8, 2.5, 2.0, True])
def test_unknown_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"1 to 7, got {size}"):
        BlurPool2d(size=size)
    with pytest.raises(ValueError, match=f"1 to 7, got {size}"):
        blur_pool2d(torch.zeros(1, 1, 8, 8), size=size)


@pytest.mark.parametrize("stride", [0, -2, (1, 2, 3), (1, 0), 1.5 * torch.ones(2)])
def test_bad_strides_are_refused(stride):
    with pytest.raises(ValueError, match="stride must be a positive integer"):
        BlurPool2d(stride=stride)


def test_bad_inputs_are_refused():
    with pytest.raises(ValueError, match=r"circular.*'wrap'"):
        BlurPool2d(padding="wrap")
    with pytest.raises(ValueError, match=r"reflect padding by up to 2 pixels.*2x9"):
        blur_pool2d(torch.zeros(1, 1, 2, 9))
    with pytest.raises(ValueError, match="4 axes"):
        blur_pool2d(torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match="int64"):
        blur_pool2d(torch.zeros(1, 1, 8, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match="size 5 does not fit"):
        blur_pool2d(torch.zeros(1, 1, 4, 4), size=5, pad_off=-2)
