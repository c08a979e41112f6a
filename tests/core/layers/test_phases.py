from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from stillpoint.core import kernels
from stillpoint.core.layers import (
    CRITERIA,
    choose_phase,
    place_phase,
    polyphase_components,
    polyphase_downsample2d,
    take_phase,
)
from tests.core.layers.definitions import phases

STRIDES = [1, 2, 3, (1, 2), (3, 2)]
NORMS = {
    "l2": lambda p: np.sqrt((p**2).sum((1, 2, 3))),
    "l1": lambda p: abs(p).sum((1, 2, 3)),
    "l_infty": lambda p: abs(p).max((1, 2, 3)),
    "max": lambda p: p.max((1, 2, 3)),
    "l2_min": lambda p: -np.sqrt((p**2).sum((1, 2, 3))),
    "l1_min": lambda p: -abs(p).sum((1, 2, 3)),
}


def pair(stride):
    return (stride, stride) if isinstance(stride, int) else stride


def map_of(h, w, dtype=torch.float64):
    return torch.randn(6, 3, h, w, dtype=dtype)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", [(6, 12), (7, 9), (1, 1)])
def test_the_row_moves_first(stride, size):
    x = map_of(*size)
    want = phases(x.numpy(), pair(stride))
    got = polyphase_components(x, stride=stride)
    assert np.array_equal(got.numpy(), np.stack(want, axis=1))
    for k, component in enumerate(want):
        taken = take_phase(x, torch.full((6,), k), stride=stride)
        assert np.array_equal(taken.numpy(), component)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", [(6, 12), (7, 9)])
def test_the_choice_is_the_definition(criterion, stride, size):
    x = map_of(*size)
    scores = np.stack([NORMS[criterion](p) for p in phases(x.numpy(), pair(stride))], axis=1)
    got = choose_phase(x, stride=stride, criterion=criterion)
    assert got.dtype == torch.int64
    assert np.array_equal(got.numpy(), scores.argmax(1))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_ties_go_to_the_lowest_phase(criterion):
    x = torch.zeros(2, 1, 4, 4)
    x[1] = 1
    assert torch.equal(choose_phase(x, criterion=criterion), torch.zeros(2, dtype=torch.int64))


@given(
    h=st.integers(1, 5), w=st.integers(1, 5), s=st.integers(1, 3), t=st.integers(1, 3), i=st.integers(-9, 9),
    j=st.integers(-9, 9), criterion=st.sampled_from(CRITERIA),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_the_grid_chosen_moves_with_the_image(h, w, s, t, i, j, criterion):
    x = map_of(h * s, w * t, torch.float32)
    before = choose_phase(x, stride=(s, t), criterion=criterion)
    after = choose_phase(x.roll((i, j), (2, 3)), stride=(s, t), criterion=criterion)
    assert torch.equal(after % s, (before % s + i) % s)
    assert torch.equal(after // s, (before // s + j) % t)


def test_the_choice_survives_a_gap_below_single_precision():
    # Norms added up in float32 differ by more than this gap from one order of the pixels to another.
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    x[..., 1::2, :] = x[..., 0::2, :]
    x[..., :, 1::2] = x[..., :, 0::2]
    x[0, 0, 1, 1] += 1e-6
    assert choose_phase(x).item() == 3
    for i, j in ((1, 0), (0, 1), (17, 30), (33, 63)):
        assert choose_phase(x.roll((i, j), (2, 3))).item() == (1 + i) % 2 + 2 * ((1 + j) % 2)


def test_half_precision_maps_are_measured_in_single():
    x = map_of(8, 8, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(choose_phase(x), choose_phase(x.float()))
    large = torch.full((1, 1, 4, 4), 300.0).half()  # whose squares are beyond half precision
    large[0, 0, 1, 1] = 301
    assert choose_phase(large).item() == 3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("criterion", ["l2", "l1", "l2_min", "l1_min"])
@pytest.mark.parametrize(
    ("dtype", "large", "small"),
    [
        (torch.float32, 2.0**120, 2.0**-110),
        (torch.bfloat16, 2.0**120, 2.0**-110),
        (torch.float64, 2.0**1000, 2.0**-1000),
    ],
)
def test_the_choice_and_its_law_hold_where_squares_over_or_underflow(
    monkeypatch, dtype, large, small, criterion, fused, layout
):
    monkeypatch.setattr(kernels, "fused", (lambda *_, **__: False) if not fused else kernels.fused)
    # whole numbers, so that no power of two rounds them; ordinary images stand beside the others
    draws = torch.Generator().manual_seed(0)
    x = torch.randint(-100, 101, (4, 80, 6, 8), generator=draws).to(dtype)
    scales = torch.tensor([large, 1.0, small, 0.0], dtype=torch.float64).to(dtype).view(4, 1, 1, 1)
    choose = partial(choose_phase, stride=(2, 2), criterion=criterion)
    want, scaled = choose(x), (x * scales).to(memory_format=layout)
    assert torch.equal(choose(scaled)[:3], want[:3]) and choose(scaled)[3] == 0
    assert len(set(want[:3].tolist())) > 1
    for i, j in ((1, 0), (3, 5)):
        moved = choose(scaled.roll((i, j), (2, 3)))[:3]
        assert torch.equal(moved, (want[:3] % 2 + i) % 2 + 2 * ((want[:3] // 2 + j) % 2))
    for select in ("before_blur", "after_blur"):
        options = {"size": 3, "select": select, "criterion": criterion, "return_phase": True}
        y, phase = polyphase_downsample2d(x, **options)
        z, same = polyphase_downsample2d(scaled, **options)
        assert torch.equal(same[:3], phase[:3]) and torch.equal(z[:3], (y * scales)[:3])


@pytest.mark.parametrize("stride", STRIDES)
def test_placing_is_the_adjoint_of_taking(stride):
    s, t = pair(stride)
    x, phase = map_of(4 * s, 3 * t), torch.arange(6) % (s * t)
    y = map_of(4, 3)
    torch.testing.assert_close(
        (take_phase(x, phase, stride=stride) * y).sum(), (x * place_phase(y, phase, stride=stride)).sum()
    )
    assert torch.equal(take_phase(place_phase(y, phase, stride=stride), phase, stride=stride), y)


def test_placing_keeps_infinities_where_they_are():
    y = torch.full((1, 1, 2, 2), float("inf"))
    assert place_phase(y, torch.tensor([2])).isnan().sum() == 0


def test_gradients():
    phase = torch.tensor([0, 3, 1, 2, 2, 0])
    assert torch.autograd.gradcheck(lambda x: take_phase(x, phase), map_of(4, 5).requires_grad_())
    assert torch.autograd.gradcheck(lambda y: place_phase(y, phase), map_of(2, 2).requires_grad_())
    assert not choose_phase(map_of(4, 4).requires_grad_()).requires_grad


def test_exceptions_name_the_value():
    x = map_of(4, 4)
    with pytest.raises(ValueError, match="l2, l1, l_infty, max, l2_min, l1_min, got 'l3'"):
        choose_phase(x, criterion="l3")
    with pytest.raises(ValueError, match="got 0"):
        choose_phase(x, stride=0)
    with pytest.raises(ValueError, match=r"a tensor \(B, C, H, W\) is needed, got torch.float64 of shape \(3, 4, 4\)"):
        choose_phase(x[0])
    with pytest.raises(ValueError, match=r"each of the 6 images, got \(2,\)"):
        take_phase(x, torch.zeros(2, dtype=torch.int64))


def test_a_phase_of_other_integers_is_refused():
    # a kernel that read them as int64 would read past their end
    x = map_of(8, 8)
    with pytest.raises(ValueError, match="phase must be int64, as choose_phase returns it, got int32"):
        take_phase(x, torch.zeros(6, dtype=torch.int32))
    with pytest.raises(ValueError, match="got float32"):
        place_phase(x, torch.zeros(6))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("wrong", [-1, "first beyond"])
def test_a_phase_that_no_grid_has_is_refused_by_kernels_and_plain_code(monkeypatch, fused, stride, wrong):
    if not fused:
        monkeypatch.setattr(kernels, "fused", lambda *_, **__: False)
    s, t = pair(stride)
    phase = torch.zeros(6, dtype=torch.int64)
    phase[4] = s * t if wrong == "first beyond" else wrong
    for function in (take_phase, place_phase):
        with pytest.raises(ValueError, match=rf"phase must lie between 0 and {s * t - 1}, got \[0, 0, 0, 0, "):
            function(map_of(6, 6), phase, stride=stride)
    # what is not known yet is not looked at
    assert take_phase(map_of(6, 6).to("meta"), phase.to("meta"), stride=stride).shape == (6, 3, -(-6 // s), -(-6 // t))


def test_plain_sampling_is_compiled_exported_and_transformed_all_the_same(monkeypatch):
    monkeypatch.setattr(kernels, "fused", lambda *_, **__: False)
    x, phase = map_of(6, 6), torch.tensor([0, 3, 1, 2, 2, 0])
    want = take_phase(x, phase)
    assert torch.equal(torch.compile(take_phase, fullgraph=True, backend="aot_eager")(x, phase), want)
    assert torch.equal(torch.func.vmap(lambda a, b: take_phase(a[None], b[None])[0])(x, phase), want)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert take_phase(mode.from_tensor(x), mode.from_tensor(phase)).shape == want.shape
