import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillpoint.core import kernels
from stillpoint.core.kernels import native
from stillpoint.core.layers import (
    CRITERIA,
    PADDINGS,
    BlurPool2d,
    PolyphaseDownsample2d,
    blur_pool2d,
    choose_phase,
    take_phase,
)
from stillpoint.core.layers.phases import place_phase
from stillpoint.core.layers.polyphase import polyphase_downsample2d

OPERATORS = torch.ops.stillpoint
LAYOUTS = [torch.contiguous_format, torch.channels_last]
STRIDES = [(1, 1), (2, 2), (3, 3), (1, 2), (3, 2)]
SHAPES = [(8, 8), (9, 12), (7, 23), (40, 37)]


@pytest.fixture(autouse=True)
def _compiled():
    assert native.available("float"), "these tests need a C++ compiler"


@pytest.fixture
def plain(monkeypatch):
    """Calls a function with the kernels out of the way."""

    def call(function, *arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "fused", lambda *_, **__: False)
            return function(*arguments, **options)

    return call


def map_of(shape, layout=torch.contiguous_format, dtype=torch.float64, channels=5, batch=3):
    return torch.randn(batch, channels, *shape).to(dtype).to(memory_format=layout)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_blur_and_its_gradient_are_those_of_plain_convolution(plain, padding, size, layout):
    for shape in SHAPES[:3]:
        for stride in STRIDES:
            for pad_off in (-1, 0, 1, 3):
                x = map_of(shape, layout).requires_grad_()
                options = {"size": size, "stride": stride, "padding": padding, "pad_off": pad_off}
                got, want = kernels.blur_pool2d(x, **options), plain(blur_pool2d, x, **options)
                torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)
                seed = torch.randn_like(want)
                gradients = [torch.autograd.grad(y, x, seed)[0] for y in (got, want)]
                torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_lower_precisions_are_rounded_once(plain, dtype, tolerance, layout):
    for shape in SHAPES:
        for size in range(1, 8):
            x = map_of(shape, layout, dtype).requires_grad_()
            y = kernels.blur_pool2d(x, size=size, stride=(2, 2), padding="reflect")
            exact = x.detach().double().requires_grad_()
            want = plain(blur_pool2d, exact, size=size)
            assert y.dtype == dtype
            torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=tolerance)
            seed = torch.randn_like(y)
            (got,), (want,) = torch.autograd.grad(y, x, seed), torch.autograd.grad(want, exact, seed.double())
            torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("channels", [32, 64, 70])
def test_bfloat16_is_rounded_as_pytorch_does_it_also_where_it_is_no_number(channels):
    x = map_of((12, 11), torch.channels_last, torch.bfloat16, channels=channels)
    x[0, 3, 4, 4], x[1, 20, 6, 6], x[1, 21, 6, 6], x[1, 22, 6, 6] = float("nan"), float("inf"), -float("inf"), 3.3e38
    for size in range(2, 8):
        options = {"size": size, "stride": (2, 2), "padding": "reflect"}
        got, want = kernels.blur_pool2d(x, **options), kernels.blur_pool2d(x.float(), **options).bfloat16()
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def test_results_are_where_the_input_is_whatever_the_default_device():
    x = map_of((8, 8))
    want = kernels.blur_pool2d(x, size=3, stride=(2, 2), padding="circular")
    with torch.device("meta"):
        got = kernels.blur_pool2d(x, size=3, stride=(2, 2), padding="circular")
        options = {"stride": (2, 2), "criterion": "l2"}
        sampled = kernels.polyphase_pool2d(x, size=3, padding="circular", after_blur=True, **options)
        phase = kernels.choose_phase(x, **options)
    assert torch.equal(got, want)
    assert {tensor.device.type for tensor in (*sampled, phase)} == {"cpu"}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_large_maps_are_stored_past_the_caches_with_the_same_bits(padding, size):
    # four images give 4 MiB, one does not; sixteen channels of float32 are a line of the cache
    x = map_of((256, 256), torch.channels_last, torch.float32, channels=16, batch=4)
    options = {"size": size, "stride": (2, 2), "padding": padding}
    parts = [image.contiguous(memory_format=torch.channels_last) for image in x.split(1)]
    y = kernels.blur_pool2d(x, **options)
    assert torch.equal(y, torch.cat([kernels.blur_pool2d(image, **options) for image in parts]))
    y = map_of((64, 64), torch.channels_last, torch.float32, channels=16, batch=4)
    parts = [image.contiguous(memory_format=torch.channels_last) for image in y.split(1)]
    x = kernels.blur_pool2d_adjoint(y, (128, 128), **options)
    assert torch.equal(x, torch.cat([kernels.blur_pool2d_adjoint(image, (128, 128), **options) for image in parts]))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_phase_samples_the_dense_blur_bit_for_bit(plain, padding, layout):
    for shape in SHAPES:
        for stride in STRIDES:
            for size in (1, 2, 3, 6):
                phase = torch.arange(3) % (stride[0] * stride[1])
                x = map_of(shape, layout, torch.float32)
                dense = kernels.blur_pool2d(x, size=size, stride=(1, 1), padding=padding)
                got = kernels.blur_pool2d(x, size=size, stride=stride, padding=padding, phase=phase)
                assert torch.equal(got, plain(take_phase, dense, phase, stride=stride))


@given(
    h=st.integers(1, 9), w=st.integers(1, 40), s=st.integers(1, 3), t=st.integers(1, 3), size=st.integers(1, 7),
    i=st.integers(-9, 9), j=st.integers(-50, 50), layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_circular_shift_moves_every_bit_and_changes_none(h, w, s, t, size, i, j, layout, dtype):
    x = map_of((h * s, w * t), layout, dtype).requires_grad_()
    moved = x.detach().roll((i * s, j * t), (2, 3)).to(memory_format=layout).requires_grad_()
    y = kernels.blur_pool2d(x, size=size, stride=(s, t), padding="circular")
    z = kernels.blur_pool2d(moved, size=size, stride=(s, t), padding="circular")
    assert torch.equal(z, y.roll((i, j), (2, 3)))
    seed = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, seed)
    (shifted,) = torch.autograd.grad(z, moved, seed.roll((i, j), (2, 3)))
    # The taps of a map as small as the filter wrap onto one pixel, and the backward pass adds those as they come.
    if h * s > size and w * t > size:
        assert torch.equal(shifted, gradient.roll((i * s, j * t), (2, 3)))


@given(
    h=st.integers(1, 9), w=st.integers(1, 20), s=st.integers(1, 3), t=st.integers(1, 3), size=st.integers(1, 7),
    i=st.integers(-20, 20), j=st.integers(-50, 50), layout=st.sampled_from(LAYOUTS), select=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_adaptive_sampling_of_a_shifted_map_keeps_the_very_same_numbers(h, w, s, t, size, i, j, layout, select):
    # a map no larger than the filter may be blurred to phases that are exactly equal, and a tie goes to the lowest
    x = map_of((h * s + size // s * s, w * t + size // t * t), layout, torch.float32, channels=20)
    f = PolyphaseDownsample2d(stride=(s, t), size=size, select="after_blur" if select else "before_blur")
    moved = x.roll((i, j), (2, 3)).to(memory_format=layout)
    y, k = f(x, return_grid=True)
    z, m = f(moved, return_grid=True)
    rows, columns = (k % s + i).div(s, rounding_mode="floor"), (k // s + j).div(t, rounding_mode="floor")
    for image, other, r, c in zip(y, z, rows.tolist(), columns.tolist(), strict=True):
        assert torch.equal(other, image.roll((r, c), (1, 2)))
    assert torch.equal(m, (k % s + i) % s + s * ((k // s + j) % t))


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_choice_and_the_samples_are_those_of_the_plain_code(plain, criterion, layout, dtype):
    for shape in SHAPES[:3]:
        for stride in STRIDES:
            x = map_of(shape, layout, dtype, channels=35)
            want = plain(choose_phase, x, stride=stride, criterion=criterion)
            assert torch.equal(choose_phase(x, stride=stride, criterion=criterion), want)
            for size, select in ((1, "before_blur"), (3, "before_blur"), (2, "after_blur"), (5, "after_blur")):
                options = {
                    "stride": stride,
                    "size": size,
                    "select": select,
                    "criterion": criterion,
                    "padding": "reflect",
                }
                y, phase = polyphase_downsample2d(x, return_phase=True, **options)
                # The plain blur of a bfloat16 map is rounded before it is judged, ours is not: compare in double.
                exact = x.double() if select == "after_blur" else x
                other, want = plain(polyphase_downsample2d, exact, return_phase=True, **options)
                assert torch.equal(phase, want)
                torch.testing.assert_close(
                    y.double(), other.double(), rtol=1e-2, atol=0.02 if dtype == torch.bfloat16 else 1e-6
                )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_not_a_number_wins_a_choice_as_in_argmax(plain, layout):
    x = map_of((4, 4), layout)
    x[1, 2, 3, 0] = float("nan")
    for criterion in CRITERIA:
        assert torch.equal(choose_phase(x, criterion=criterion), plain(choose_phase, x, criterion=criterion))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_placing_is_the_plain_code(plain, layout):
    y, phase = map_of((5, 4), layout), torch.tensor([3, 0, 2])
    assert torch.equal(place_phase(y, phase), plain(place_phase, y, phase))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_derivatives_of_first_and_second_order(layout):
    x = map_of((5, 7), layout, channels=2, batch=2).requires_grad_()
    phase = torch.tensor([1, 2])

    def fixed(x):
        return kernels.blur_pool2d(x, size=4, stride=(2, 2), padding="reflect", phase=phase).pow(2)

    def adaptive(x):
        return polyphase_downsample2d(x, size=3, select="after_blur").pow(2)

    for f in (fixed, adaptive):
        assert torch.autograd.gradcheck(f, x)
        assert torch.autograd.gradgradcheck(f, x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    x = map_of((6, 5), layout, torch.float32).requires_grad_()
    y, phase = map_of((3, 3), layout, torch.float32).requires_grad_(), torch.tensor([0, 3, 1])
    for k in (None, phase):
        torch.library.opcheck(OPERATORS.blur_pool.default, (x, k, 3, [2, 2], "reflect", 0))
        torch.library.opcheck(OPERATORS.blur_pool_adjoint.default, (y, k, [6, 5], 3, [2, 2], "reflect", 0))
    torch.library.opcheck(OPERATORS.polyphase_pool.default, (x, 3, [2, 2], "circular", "l2", True))
    torch.library.opcheck(OPERATORS.choose_phase.default, (x.detach(), [2, 2], "l2"))


def test_compiles_whole_with_layouts_and_other_sizes():
    net = torch.nn.Sequential(BlurPool2d(size=3), torch.nn.ReLU(), PolyphaseDownsample2d(size=3, select="after_blur"))
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for layout in LAYOUTS:
        for shape in ((16, 16), (15, 12)):
            x = map_of(shape, layout, torch.float32).requires_grad_()
            got, want = compiled(x), net(x)
            assert torch.equal(got, want)
            assert got.stride() == want.stride()
            gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (got, want)]
            assert torch.equal(*gradients)


def test_the_layout_is_kept_and_strided_maps_pass():
    x = map_of((8, 6), torch.channels_last, torch.float32).requires_grad_()
    y = blur_pool2d(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.shape == x.shape
    crop = map_of((9, 9), dtype=torch.float32)[:, 1:4, 1:, :-2]
    assert torch.equal(blur_pool2d(crop), blur_pool2d(crop.contiguous()))
    assert torch.equal(polyphase_downsample2d(crop), polyphase_downsample2d(crop.contiguous()))


def test_threads_change_no_bit():
    x = map_of((20, 21), dtype=torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            results.append(
                [f(x.to(memory_format=m)) for m in LAYOUTS for f in (BlurPool2d(), PolyphaseDownsample2d(size=3))]
            )
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_empty_batches_and_no_channels_pass():
    for x in (torch.zeros(0, 3, 8, 8), torch.zeros(2, 0, 8, 8)):
        assert blur_pool2d(x).shape == (*x.shape[:2], 4, 4)
        y, phase = polyphase_downsample2d(x, size=3, select="after_blur", return_phase=True)
        assert y.shape == (*x.shape[:2], 4, 4)
        assert torch.equal(phase, torch.zeros(len(x), dtype=torch.int64))


@pytest.mark.parametrize("phase", [-1, 4])
def test_a_phase_outside_the_grid_is_refused(phase):
    with pytest.raises(ValueError, match=rf"between 0 and 3, got \[0, {phase}, 1\]"):
        kernels.blur_pool2d(
            map_of((4, 4)), size=1, stride=(2, 2), padding="circular", phase=torch.tensor([0, phase, 1])
        )


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:FutureWarning")
def test_exported_networks_hold_no_operator_of_ours():
    net = torch.nn.Sequential(BlurPool2d(), PolyphaseDownsample2d(size=3))
    x = map_of((16, 16), dtype=torch.float32)
    program = torch.export.export(net, (x,))
    assert not any("stillpoint" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), net(x))
    # By the kind of each node: the text of a graph also holds the folders of its sources.
    kinds = {node.kind() for node in torch.jit.trace(BlurPool2d(), x).graph.nodes()}
    assert "aten::_convolution" in kinds and not any("stillpoint" in kind for kind in kinds)


def test_transforms_of_functions_use_the_plain_code():
    x, v = map_of((6, 6), dtype=torch.float64), map_of((6, 6), dtype=torch.float64)
    layer = BlurPool2d()
    torch.testing.assert_close(torch.func.vmap(layer, in_dims=1)(x[:, None]), layer(x)[None])
    torch.testing.assert_close(torch.func.jvp(layer, (x,), (v,))[1], layer(v))
    assert kernels.fused(x)
