"""The penalty that drives every output of a twin towards a single packet, and the record of its gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stillpoint.core.base.errors import UserError


def concentration(weight: Tensor) -> Tensor:
    """Sum of ``|w|_1 / |w|_inf - 1`` over the rows w of (outputs, inputs), 0-dim (Leterme et al., authors' code).

    It is zero exactly if each row has at most one non-zero entry, and inputs - 1 for a row of equal magnitudes. A row
    of zeros counts as zero; the authors' quotient is undefined there. Law: scaling a row changes nothing.
    """
    sizes = weight.flatten(1).abs()
    largest = sizes.amax(1)
    some = largest > 0
    quotient = sizes.sum(1) / torch.where(some, largest, torch.ones_like(largest))
    return (quotient - 1).where(some, quotient.new_zeros(())).sum()


def penalty(weights: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Sum of `concentration` over the sections of a twin, each times its factor (the authors' `lambda-params`).

    `UserError` unless there is one factor for each section.
    """
    if len(weights) != len(factors):
        raise UserError(f"factors must be one for each of {len(weights)} sections of packets, got {list(factors)}")
    terms = [factor * concentration(weight) for weight, factor in zip(weights, factors, strict=True)]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def row_gradients(weights: Sequence[Tensor]) -> list[Tensor]:
    """The largest gradient of each row, (outputs,) for each section, after backward: the authors' `--get-gradients`."""
    found = []
    for weight in weights:
        if weight.grad is None:
            raise ValueError("a weight has no gradient yet: call this after backward")
        found.append(weight.grad.flatten(1).abs().amax(1))
    return found
