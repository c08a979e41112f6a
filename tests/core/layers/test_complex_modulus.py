"""CMod: the modulus, and its batch norm against the formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillpoint.core.layers.complex_modulus import (
    ComplexModulus,
    ModulusBatchNorm2d,
    ModulusBias2d,
    complex_modulus,
    modulus_batch_norm2d,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_absolute_value() -> None:
    x = normal(2, 3, 2, 4, 5)
    torch.testing.assert_close(complex_modulus(x), torch.complex(x[:, :, 0], x[:, :, 1]).abs())
    torch.testing.assert_close(ComplexModulus()(x), complex_modulus(x))


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(-math.pi, math.pi), seed=st.integers(0, 99))
def test_rotating_every_number_changes_nothing(angle: float, seed: int) -> None:
    x = normal(1, 2, 2, 3, 3, seed=seed)
    c, s = math.cos(angle), math.sin(angle)
    rotated = torch.stack([c * x[:, :, 0] - s * x[:, :, 1], s * x[:, :, 0] + c * x[:, :, 1]], dim=2)
    torch.testing.assert_close(complex_modulus(rotated), complex_modulus(x))


def test_the_gradient_at_zero_is_zero() -> None:
    x = torch.zeros(1, 1, 2, 2, 2, requires_grad=True)
    complex_modulus(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("scale", [2.0**120, 1.0, 2.0**-120])
def test_the_modulus_and_its_gradient_neither_over_nor_underflow(scale: float) -> None:
    x = torch.randn(2, 3, 2, 4, 5)
    want = complex_modulus(x)
    bits = {"rtol": 2e-7, "atol": 0.0}  # two units of the last place
    torch.testing.assert_close(want.double(), torch.linalg.vector_norm(x.double(), dim=2), **bits)
    scaled = (x * scale).requires_grad_()
    y = complex_modulus(scaled)
    torch.testing.assert_close(y, want * scale, **bits)
    y.backward(torch.ones_like(y))
    torch.testing.assert_close(scaled.grad, x / want[:, :, None])
    # one number beside another, each on a scale of its own
    both = torch.stack([x, x * scale], -1).flatten(3)[..., None]
    torch.testing.assert_close(
        complex_modulus(both), torch.stack([want, want * scale], -1).flatten(2)[..., None], **bits
    )


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"complex maps are \(B, C, 2, H, W\), got shape \(1, 4, 3, 3\)"):
        complex_modulus(normal(1, 4, 3, 3))


def test_training_divides_by_the_root_of_half_the_energy_and_moves_the_running_one() -> None:
    norm = ModulusBatchNorm2d(3, dtype=torch.float64)
    norm.weight.data = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    norm.bias.data = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)
    x = normal(4, 3, 5, 6).abs()
    energy = x.square().mean((0, 2, 3))
    scale = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64) / (energy / 2 + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), x * scale[:, None, None] + norm.bias[:, None, None])
    torch.testing.assert_close(norm.running_energy, 0.9 + 0.1 * energy)
    assert norm.num_batches_tracked == 1


def test_evaluation_uses_the_running_energy_and_leaves_it() -> None:
    norm = ModulusBatchNorm2d(2, dtype=torch.float64).eval()
    norm.running_energy = torch.tensor([2.0, 8.0], dtype=torch.float64)
    x = normal(1, 2, 3, 3).abs()
    scale = torch.tensor([1.0, 0.5], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(norm(x), x * scale, rtol=1e-5, atol=0)
    assert norm.running_energy.tolist() == [2.0, 8.0]
    assert norm.num_batches_tracked == 0


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.1, 100), seed=st.integers(0, 99))
def test_training_forgets_the_scale_of_its_input(factor: float, seed: int) -> None:
    x = 1 + normal(2, 3, 4, 4, seed=seed).abs()
    first, second = (ModulusBatchNorm2d(3, eps=1e-12, dtype=torch.float64)(v) for v in (x, factor * x))
    torch.testing.assert_close(first, second)


def test_the_gradient_flows_through_the_energy() -> None:
    x, weight, bias = normal(2, 2, 2, 3).abs().requires_grad_(), normal(2).requires_grad_(), normal(2).requires_grad_()

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return modulus_batch_norm2d(x, torch.ones(2, dtype=torch.float64), weight, bias, training=True)

    assert torch.autograd.gradcheck(norm, (x, weight, bias))
    # a larger input everywhere changes nothing, so the gradient along the input itself vanishes
    grad = torch.autograd.grad((norm(x, weight, bias) * normal(2, 2, 2, 3, seed=1)).sum(), x)[0]
    torch.testing.assert_close((grad * x).sum((0, 2, 3)), torch.zeros(2, dtype=torch.float64), atol=1e-4, rtol=0)


def test_the_bias_is_one_number_for_each_channel() -> None:
    layer = ModulusBias2d(3, dtype=torch.float64)
    assert layer.bias.abs().max() <= 1
    x = normal(2, 3, 4, 5)
    torch.testing.assert_close(layer(x) - x, layer.bias.detach()[None, :, None, None].expand(2, 3, 4, 5))


def test_a_network_with_the_modulus_is_still_traced() -> None:
    x = torch.randn(1, 3, 2, 4, 4)
    assert torch.equal(torch.fx.symbolic_trace(torch.nn.Sequential(ComplexModulus()))(x), ComplexModulus()(x))
