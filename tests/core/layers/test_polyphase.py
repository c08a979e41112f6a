import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillpoint.core.layers import (
    BlurPool2d,
    PolyphaseDownsample2d,
    PolyphaseUpsample2d,
    blur_pool2d,
    choose_phase,
    polyphase_downsample2d,
    polyphase_upsample2d,
)
from tests.core.layers.definitions import blur, phases


def map_of(h, w, batch=4, dtype=torch.float64):
    return torch.randn(batch, 3, h, w, dtype=dtype)


@pytest.mark.parametrize("select", ["before_blur", "after_blur"])
@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("shape", [(8, 8), (9, 11), (7, 6)])
@pytest.mark.parametrize("stride", [2, 3])
def test_values_are_the_definition(select, size, shape, stride):
    x = map_of(*shape)
    blurred = blur(x.numpy(), size, (1, 1), "circular")
    judged = x.numpy() if select == "before_blur" else blurred
    norms = np.stack([(p**2).sum((1, 2, 3)) for p in phases(judged, (stride, stride))], axis=1)
    want_phase = norms.argmax(1)
    want = np.stack([phases(blurred, (stride, stride))[k][n] for n, k in enumerate(want_phase)])
    y, phase = polyphase_downsample2d(x, stride=stride, size=size, select=select, return_phase=True)
    assert np.array_equal(phase.numpy(), want_phase)
    torch.testing.assert_close(y, torch.from_numpy(want))
    assert y.shape[2:] == tuple(-(-n // stride) for n in shape)
    layer = PolyphaseDownsample2d(3, stride, size=size, select=select)
    assert torch.equal(layer(x), y)


@given(
    h=st.integers(1, 5), w=st.integers(1, 5), s=st.integers(1, 3), t=st.integers(1, 3), i=st.integers(-9, 9),
    j=st.integers(-9, 9), size=st.integers(1, 7), select=st.sampled_from(["before_blur", "after_blur"]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_any_circular_shift_rolls_the_result(h, w, s, t, i, j, size, select):
    x = map_of(h * s, w * t)
    f = PolyphaseDownsample2d(stride=(s, t), size=size, select=select)
    y, k = f(x, return_grid=True)
    moved, _ = f(x.roll((i, j), (2, 3)), return_grid=True)
    rows, columns = (k % s + i).div(s, rounding_mode="floor"), (k // s + j).div(t, rounding_mode="floor")
    want = torch.stack([image.roll((int(r), int(c)), (1, 2)) for image, r, c in zip(y, rows, columns, strict=True)])
    torch.testing.assert_close(moved, want)
    if size == 1:
        assert torch.equal(moved, want)


def test_the_global_average_does_not_change_when_the_image_moves():
    x = map_of(8, 8)
    for size in (1, 3):
        means = [polyphase_downsample2d(x.roll((i, i * 3), (2, 3)), size=size).mean((2, 3)) for i in range(8)]
        for mean in means[1:]:
            torch.testing.assert_close(mean, means[0])
    fixed = [BlurPool2d(size=1)(x.roll(i, 2)).mean((2, 3)) for i in range(2)]
    assert (fixed[0] - fixed[1]).abs().max() > 1e-2


def test_odd_sizes_break_the_law():
    x = map_of(7, 7)
    means = torch.stack([polyphase_downsample2d(x.roll((i, 0), (2, 3))).mean((2, 3)) for i in range(7)])
    assert (means - means[0]).abs().max() > 1e-3


def test_before_and_after_the_blur_choose_differently():
    x = map_of(16, 16, batch=64).relu()
    chosen = [
        polyphase_downsample2d(x, size=3, select=select, return_phase=True)[1]
        for select in ("before_blur", "after_blur")
    ]
    assert torch.equal(chosen[0], choose_phase(x))
    assert torch.equal(chosen[1], choose_phase(blur_pool2d(x, size=3, stride=1, padding="circular")))
    assert not torch.equal(*chosen)


def test_a_given_phase_is_used_and_returned():
    x, phase = map_of(8, 6), torch.arange(4)
    y, returned = PolyphaseDownsample2d(size=3)(x, phase, return_grid=True)
    assert returned is phase
    assert torch.equal(y, BlurPool2d(size=3, padding="circular")(x, phase))


def test_stride_one_only_blurs_and_has_one_phase():
    x = map_of(5, 6)
    y, phase = polyphase_downsample2d(x, stride=1, size=3, return_phase=True)
    assert torch.equal(y, blur_pool2d(x, stride=1, size=3, padding="circular"))
    assert torch.equal(phase, torch.zeros(4, dtype=torch.int64))
    assert torch.equal(polyphase_upsample2d(y, phase, stride=1, size=3), y)


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
def test_upsampling_is_the_definition(size, stride):
    y, phase = map_of(3, 4), torch.tensor([0, 1, 1, 0])
    s, t = (stride, stride) if isinstance(stride, int) else stride
    if s == 1:
        phase = phase % t
    placed = np.zeros((4, 3, 3 * s, 4 * t))
    for n, k in enumerate(phase.tolist()):
        placed[n, :, k % s :: s, k // s :: t] = y[n].numpy()
    want = torch.from_numpy(blur(placed, size, (1, 1), "circular"))
    got = polyphase_upsample2d(y, phase, stride=stride, size=size)
    torch.testing.assert_close(got, want)
    assert torch.equal(PolyphaseUpsample2d(stride=stride, size=size)(y, phase), got)


def test_extending_an_odd_input_makes_the_result_larger():
    y, phase = map_of(5, 5), torch.arange(4)
    got = polyphase_upsample2d(y, phase, extend_input=True)
    assert got.shape[2:] == (12, 12)
    assert torch.equal(got[..., :10, :10], polyphase_upsample2d(y, phase))


@given(
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    s=st.integers(1, 3),
    i=st.integers(-9, 9),
    j=st.integers(-9, 9),
    size=st.integers(1, 7),
)
@settings(max_examples=25, deadline=None)
def test_down_then_up_commutes_with_every_circular_shift(h, w, s, i, j, size):
    def f(x):
        return polyphase_upsample2d(
            *polyphase_downsample2d(x, stride=s, size=size, return_phase=True), stride=s, size=size
        )

    x = map_of(h * s, w * s)
    torch.testing.assert_close(f(x.roll((i, j), (2, 3))), f(x).roll((i, j), (2, 3)))


def test_gradients():
    x = map_of(5, 4, batch=2).requires_grad_()
    assert torch.autograd.gradcheck(PolyphaseDownsample2d(size=3), x)
    phase = torch.tensor([3, 0])
    assert torch.autograd.gradcheck(lambda y: polyphase_upsample2d(y, phase, size=4), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_is_that_of_the_input(dtype):
    x = map_of(8, 8, dtype=dtype)
    y, phase = PolyphaseDownsample2d(size=3)(x, return_grid=True)
    assert y.dtype == dtype
    assert torch.equal(phase, choose_phase(x.double()))
    assert polyphase_upsample2d(y, phase, size=3).dtype == dtype


def test_autocast_changes_nothing_for_a_float32_map():
    x = map_of(8, 8, dtype=torch.float32)
    want = polyphase_downsample2d(x, size=3, select="after_blur")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(polyphase_downsample2d(x, size=3, select="after_blur"), want)


def test_compiles_without_graph_breaks():
    down, up = PolyphaseDownsample2d(size=3), PolyphaseUpsample2d(size=3)

    def both(x):
        y, phase = down(x, return_grid=True)
        return up(y, phase), phase

    x = map_of(8, 8, dtype=torch.float32).requires_grad_()
    got, want = torch.compile(both, fullgraph=True, backend="aot_eager")(x), both(x)
    torch.testing.assert_close(got, want)


def test_an_empty_batch_passes():
    y, phase = polyphase_downsample2d(map_of(8, 8, batch=0), size=3, return_phase=True)
    assert y.shape == (0, 3, 4, 4)
    assert phase.shape == (0,)


def test_exceptions_name_the_value():
    for build in (PolyphaseDownsample2d, lambda **kw: polyphase_downsample2d(map_of(4, 4), **kw)):
        with pytest.raises(ValueError, match="before_blur, after_blur, got 'never'"):
            build(select="never")
        with pytest.raises(ValueError, match="'l2min'"):
            build(criterion="l2min")
        with pytest.raises(ValueError, match="'wrap'"):
            build(padding="wrap")
        with pytest.raises(ValueError, match="got 9"):
            build(size=9)
        with pytest.raises(ValueError, match="got 0"):
            build(stride=0)
    with pytest.raises(ValueError, match="each of the 4 images"):
        PolyphaseUpsample2d()(map_of(4, 4), torch.zeros(1, dtype=torch.int64))


def test_options_are_refused_where_they_have_no_effect_too():
    y, phase = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="criterion must be one of"):
        polyphase_downsample2d(y, criterion="l3", phase=phase)
    with pytest.raises(ValueError, match="one entry for each of the 2 images"):
        polyphase_upsample2d(y, phase[:1], stride=1)
    with pytest.raises(ValueError, match="padding must be one of"):
        polyphase_upsample2d(y, phase, stride=1, padding="mirror")
