"""Polynomial activations: nonlinear, but with a known bandwidth, so that aliasing can be avoided.

The square of a map of bandwidth n/2 has bandwidth n, which a map of twice the resolution can represent: computed there
and filtered, a polynomial of degree two commutes with every shift of its map, fractional ones included (Michaeli,
Michaeli and Soudry, "Alias-free convnets", CVPR 2023).
"""

import torch
from torch import Tensor, nn

from stillpoint.core.kernels import quadratic as kernel
from stillpoint.core.layers.checks import check_device, check_map, check_sizes
from stillpoint.core.layers.resampling import (
    apply_to_axes,
    check_band,
    filtering,
    highest_bin,
    limited,
    upsampling,
)

FORMS = ("upsampled", "filtered", "pointwise")
#: a0 + a1 x + a2 x^2 fitted to GELU, the authors' initial values
GELU_FIT = (0.0169394634313126, 0.5, 0.3078363963999393)

# torch.fx, which cannot follow its checks, takes this as one step
torch.fx.wrap("polynomial2d")


def polynomial2d(
    x: Tensor,
    coefficients: Tensor,
    *,
    form: str = "upsampled",
    in_scale: Tensor | float = 1.0,
    out_scale: Tensor | float = 1.0,
    cutoff: float = 0.75,
    fixed_size: int = 0,
    rule: str = "exact",
) -> Tensor:
    """Polynomial activation t * (a0 + a1 u + a2 u^2) with u = s x, computed without aliasing.

    Args:
        x: (B, C, H, W), any floating dtype; treated as periodic unless `form` is "pointwise".
        coefficients: a0, a1, a2 of each channel (C, 3), or of all channels (3,).
        form: "upsampled" computes it at twice the resolution and filters; "filtered" replaces u^2 by u * L(u), L a
            low-pass at `cutoff`, for maps that the next layer filters; "pointwise" does neither, and aliases.
        in_scale, out_scale: s and t, numbers or tensors of one element.
        cutoff, fixed_size, rule: of `band_limit2d`, for the form "filtered".

    Returns:
        (B, C, H, W) in the dtype of `x`. At even sizes, "upsampled" removes the Nyquist frequency.

    Raises:
        ValueError: an unknown form, coefficients of another shape or device, scales of several elements, a map that is
            not four-dimensional and floating, and what `band_limit2d` raises for a cutoff, fixed_size or rule.

    Law: "upsampled" commutes with every circular shift, fractional ones included; "filtered" does so except for
    frequencies above 2 - `cutoff`, which a filter that keeps less than 1 - `cutoff` removes; "pointwise" commutes with
    whole-pixel shifts only.

    Examples:
        >>> square = torch.tensor([0.0, 0.0, 1.0])
        >>> layers.polynomial2d(torch.full((1, 1, 2, 2), 3.0), square, form="pointwise").unique()
        tensor([9.])
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    check_band(cutoff, fixed_size, rule)
    check_map(x)
    if coefficients.shape not in ((3,), (x.shape[1], 3)):
        raise ValueError(
            "coefficients must be (3,) or (channels, 3) for maps (B, channels, H, W), "
            f"got {tuple(coefficients.shape)} for a map {tuple(x.shape)}"
        )
    check_device(x, "coefficients", coefficients)
    for name, s in (("in_scale", in_scale), ("out_scale", out_scale)):
        if isinstance(s, Tensor) and s.numel() != 1:
            raise ValueError(f"{name} must be a number or a tensor of one element, got {tuple(s.shape)}")
    scales = [s if isinstance(s, Tensor) else coefficients.new_full((), s) for s in (in_scale, out_scale)]
    return _computed(x, coefficients, form, scales[0], scales[1], cutoff, fixed_size, rule)


def _computed(
    x: Tensor,
    coefficients: Tensor,
    form: str,
    in_scale: Tensor,
    out_scale: Tensor,
    cutoff: float,
    fixed_size: int,
    rule: str,
) -> Tensor:
    a0, a1, a2 = coefficients[..., None, None].unbind(-3)  # (C, 1, 1) each
    # t p(s x) = t a0 + (t s a1) x + (t s^2 a2) x^2: scaling three numbers a channel saves two passes over the map
    constant, slope, curve = out_scale * a0, out_scale * in_scale * a1, out_scale * in_scale * in_scale * a2
    if form == "filtered":
        partner = limited(x, cutoff, 1, 1, fixed_size, rule)
        return (constant + x * (slope + curve * partner)).to(x.dtype)
    if form == "pointwise":
        return (constant + x * (slope + curve * x)).to(x.dtype)
    h, w = x.shape[-2], x.shape[-1]
    fine = apply_to_axes(x, upsampling(h, 2, False, x), upsampling(w, 2, False, x))
    if torch.jit.is_scripting():
        fine = constant + fine * (slope + curve * fine)
    else:  # TorchScript does not compile this branch
        fine = _evaluated(fine, constant, slope, curve)
    rows = filtering(2 * h, highest_bin(2 * h, 0.5), 2, x)
    return apply_to_axes(fine, rows, filtering(2 * w, highest_bin(2 * w, 0.5), 2, x)).to(x.dtype)


def _evaluated(x: Tensor, constant: Tensor, slope: Tensor, curve: Tensor) -> Tensor:
    if not kernel.fused(x):
        return constant + x * (slope + curve * x)
    terms = torch.broadcast_tensors(*(part.flatten() for part in (constant, slope, curve)))
    return kernel.quadratic(x, torch.stack(terms, 1))


class PolynomialActivation2d(nn.Module):
    """`polynomial2d` with trained coefficients and scales, as an activation.

    Args:
        channels: of the map; None: one polynomial for all of them.
        form, cutoff, fixed_size, rule: as in `polynomial2d`.
        scale: initial value of both scales, or (in_scale, out_scale). The authors start at 7, which suits branches with
            a layer scale of 1e-6; use 1 without a layer scale.
        train_scale: train the scales; otherwise they are fixed.
        train: train the coefficients.

    Raises:
        ValueError: an unknown form, and what `band_limit2d` raises for a cutoff, fixed_size or rule.

    The coefficients (C, 3) start as a fit of GELU. Having two axes, they get weight decay like weights.

    Examples:
        >>> layers.PolynomialActivation2d(8)(torch.randn(2, 8, 6, 6)).shape
        torch.Size([2, 8, 6, 6])
    """

    in_scale: Tensor
    out_scale: Tensor

    def __init__(
        self,
        channels: int | None = None,
        *,
        form: str = "upsampled",
        scale: float | tuple[float, float] = 1.0,
        train_scale: bool = True,
        train: bool = True,
        cutoff: float = 0.75,
        fixed_size: int = 0,
        rule: str = "exact",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        check_band(cutoff, fixed_size, rule)
        if channels is not None:
            check_sizes(channels=channels)
        self.channels, self.form, self.cutoff, self.fixed_size, self.rule = channels, form, cutoff, fixed_size, rule
        begin = torch.tensor(GELU_FIT, device=device, dtype=dtype)
        begin = begin if channels is None else begin.repeat(channels, 1)
        self.coefficients = nn.Parameter(begin, requires_grad=train)
        scales = (scale, scale) if isinstance(scale, int | float) else scale
        if len(scales) != 2:
            raise ValueError(f"scale must be a number or (in_scale, out_scale), got {scale!r}")
        for name, value in zip(("in_scale", "out_scale"), scales, strict=True):
            made = torch.full((1,), float(value), device=device, dtype=dtype)
            if train_scale:
                self.register_parameter(name, nn.Parameter(made))
            else:
                self.register_buffer(name, made, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            coefficients, before, after = self.coefficients, self.in_scale, self.out_scale
            return _computed(x, coefficients, self.form, before, after, self.cutoff, self.fixed_size, self.rule)
        else:  # TorchScript does not compile this branch
            return polynomial2d(
                x,
                self.coefficients,
                form=self.form,
                in_scale=self.in_scale,
                out_scale=self.out_scale,
                cutoff=self.cutoff,
                fixed_size=self.fixed_size,
                rule=self.rule,
            )

    def extra_repr(self) -> str:
        more = f", cutoff={self.cutoff}" if self.form == "filtered" else ""
        return f"{self.channels}, form={self.form!r}{more}"


def pointwise_polynomial(channels: int) -> PolynomialActivation2d:
    """The same polynomial computed pointwise, with aliasing, for comparison."""
    return PolynomialActivation2d(channels, form="pointwise")
