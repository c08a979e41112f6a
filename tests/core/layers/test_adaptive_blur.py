import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stillpoint.core.layers import AdaptiveBlur2d, adaptive_blur2d, pad
from tests.core.layers.definitions import adaptive_blur


def map_of(h, w, batch=2, channels=4):
    return torch.randn(batch, channels, h, w, dtype=torch.float64)


def layer_with_statistics(**options):
    layer = AdaptiveBlur2d(4, groups=2, dtype=torch.float64, **options)
    nn.init.uniform_(layer.bn.running_var, 0.5, 1.5)
    nn.init.normal_(layer.bn.running_mean)
    return layer


@pytest.mark.parametrize("normalise", ["joint", "group"])
@pytest.mark.parametrize(("size", "stride", "groups"), [(1, 2, 2), (3, 1, 4), (3, 2, 1), (5, 3, 2)])
def test_values_are_the_definition(normalise, size, stride, groups):
    x = map_of(5, 6)
    logits = map_of(-(-5 // stride), -(-6 // stride), channels=groups * size * size)
    got = adaptive_blur2d(x, logits, size=size, stride=stride, normalise=normalise)
    want = adaptive_blur(x.numpy(), logits.numpy(), size, stride, groups, normalise)
    torch.testing.assert_close(got, torch.from_numpy(want))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2)])
def test_the_module_keeps_every_stride_th_pixel_of_the_full_result(training, stride):
    x = map_of(7, 9)
    layer = layer_with_statistics(stride=stride).train(training)
    full = adaptive_blur2d(x, layer.bn(layer.conv(pad(x, [(1, 1)] * 2, padding="reflect"))), size=3)
    s, t = (stride, stride) if isinstance(stride, int) else stride
    torch.testing.assert_close(layer(x), full[..., ::s, ::t])
    phase = torch.tensor([0, s * t - 1])
    y, returned = layer(x, phase, return_grid=True)
    assert returned is phase
    torch.testing.assert_close(y[0], full[0, :, ::s, ::t])
    rows, columns = full[1, :, s - 1 :: s, t - 1 :: t].shape[1:]
    torch.testing.assert_close(y[1, :, :rows, :columns], full[1, :, s - 1 :: s, t - 1 :: t])


def test_group_filters_sum_to_one_and_joint_ones_to_one_over_all_groups():
    x, logits = torch.ones(1, 4, 6, 6, dtype=torch.float64), map_of(6, 6, 1, 18)
    torch.testing.assert_close(adaptive_blur2d(x, logits, size=3, normalise="group"), x)
    joint = adaptive_blur2d(x, logits, size=3)
    torch.testing.assert_close(joint[:, 0] + joint[:, 2], x[:, 0])
    assert (joint[:, 0] - 1).abs().max() > 0.1


@given(h=st.integers(1, 4), w=st.integers(1, 4), s=st.integers(1, 3), i=st.integers(-5, 5), j=st.integers(-5, 5))
@settings(max_examples=25, deadline=None)
def test_a_circular_shift_by_a_multiple_of_the_stride_rolls_the_result(h, w, s, i, j):
    f, x = layer_with_statistics(stride=s, padding="circular").eval(), map_of(h * s, w * s)
    torch.testing.assert_close(f(x.roll((i * s, j * s), (2, 3))), f(x).roll((i, j), (2, 3)))


@pytest.mark.parametrize("large", [1e20, 3e38])
def test_filters_of_logits_of_any_size_are_filters(large):
    logits = torch.zeros(1, 9, 4, 4)
    logits[:, 4] = large
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(adaptive_blur2d(x, logits, size=3), x)
    assert torch.equal(adaptive_blur2d(x * 2.0**120, logits, size=3), x * 2.0**120)


def test_parameters_have_the_published_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in AdaptiveBlur2d(16).state_dict().items()}
    assert shapes["conv.weight"] == (72, 16, 3, 3)
    assert set(shapes) == {"conv.weight", *(f"bn.{n}" for n in nn.BatchNorm2d(1).state_dict())}


def test_gradients():
    x, logits = map_of(4, 5, 1).requires_grad_(), map_of(2, 3, 1, 18).requires_grad_()
    for normalise in ("joint", "group"):
        assert torch.autograd.gradcheck(
            lambda x, z, n=normalise: adaptive_blur2d(x, z, size=3, stride=2, normalise=n), (x, logits)
        )


def test_bfloat16_and_autocast():
    x = map_of(8, 8).bfloat16()
    layer = AdaptiveBlur2d(4, groups=2)
    assert layer.bfloat16()(x).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.float()(x.float()).dtype == torch.float32


def test_compiles_without_graph_breaks():
    x, layer = map_of(6, 6), layer_with_statistics()
    for training in (True, False):
        layer.train(training)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), layer(x))


def test_exceptions_name_the_value():
    with pytest.raises(ValueError, match="odd positive integer, got 4"):
        AdaptiveBlur2d(8, size=4)
    with pytest.raises(ValueError, match="divide the 6 channels, got 4"):
        AdaptiveBlur2d(6, groups=4)
    with pytest.raises(ValueError, match="joint, group, got 'all'"):
        AdaptiveBlur2d(8, normalise="all")
    with pytest.raises(ValueError, match="'wrap'"):
        AdaptiveBlur2d(8, padding="wrap")
    with pytest.raises(ValueError, match="3x3 filters of 3x3"):
        adaptive_blur2d(map_of(6, 6), map_of(6, 6, channels=9), size=3, stride=2)
