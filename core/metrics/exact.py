"""Exact sums of floating-point numbers, held in integers and independent of order, grouping and number of processes."""

import torch
from torch import Tensor

#: bits of the sum in one limb; an int64 leaves room for the carries of 2**30 additions
_BITS = 32
_MASK = (1 << _BITS) - 1
#: the smallest float64 is 2**-1074, and its 53 binary digits may begin 52 places lower
_POINT = 1126
#: enough for 2**1024 in units of 2**-_POINT, with two limbs for digits that straddle limbs and for carries
LIMBS = (1024 + _POINT) // _BITS + 2


def exact_sum(values: Tensor) -> Tensor:
    """The sum of finite float64 `values` (N,) as an integer multiple of 2**-1126: int64 limbs (LIMBS,), the lowest
    first.

    Limbs of several sums can be added in any order; `carried` keeps them small. At most 2**30 values at once.
    """
    mantissa, exponent = torch.frexp(values)
    whole = (mantissa * 2.0**53).to(torch.int64)  # exact: value = whole * 2**(exponent - 53)
    place = exponent.to(torch.int64) - 53 + _POINT
    limb, offset = place // _BITS, place % _BITS
    # 53 digits shifted by up to 31 would not fit 63 bits, so both halves are shifted separately
    low, high = (whole & _MASK) << offset, (whole >> _BITS) << offset
    limbs = values.new_zeros(LIMBS, dtype=torch.int64)
    limbs.index_add_(0, limb, low & _MASK)
    limbs.index_add_(0, limb + 1, (low >> _BITS) + (high & _MASK))
    return limbs.index_add_(0, limb + 2, high >> _BITS)


def carried(limbs: Tensor) -> Tensor:
    """The same sum with carries propagated: all limbs but the highest are below 2**33."""
    carry = limbs[:-1] >> _BITS
    return torch.cat([limbs[:1] & _MASK, (limbs[1:-1] & _MASK) + carry[:-1], limbs[-1:] + carry[-1:]])


def rounded(limbs: Tensor) -> float:
    """The sum in `limbs`, correctly rounded to float64. OverflowError beyond the largest float64."""
    total = sum(limb << (_BITS * k) for k, limb in enumerate(limbs.tolist()))
    return total / (1 << _POINT)


def ordered(values: Tensor) -> Tensor:
    """float64 -> int64 in the same order, NaN the largest, so that maxima can be taken of integers."""
    bits = values.view(torch.int64)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits).masked_fill(
        values.isnan(), torch.iinfo(bits.dtype).max
    )


def from_ordered(number: int) -> float:
    """The inverse of `ordered`."""
    bits = number if number >= 0 else number ^ 0x7FFFFFFFFFFFFFFF
    return float(torch.tensor(bits, dtype=torch.int64).view(torch.float64))
