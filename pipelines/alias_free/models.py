"""Builds the paper's networks: ConvNeXt with its slots filled."""

from functools import partial
from typing import Any

from torch import nn

from stillpoint.core.backbones.convnext import FAMILY, convnext
from stillpoint.core.backbones.slots import slots
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.polynomial import PolynomialActivation2d
from stillpoint.pipelines.alias_free.config import Model

#: MODEL.ACTIVATION -> form of the polynomial
_FORMS = {"polynomial": "upsampled", "polynomial_pointwise": "pointwise"}


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The network of a MODEL section, initialised as the authors do (normal of deviation 0.02).

    Raises:
        UserError: the images' size is not a multiple of the network's total stride, unless MODEL.ANY_SIZE.
    """
    if image_size % model.total_stride and not model.any_size:
        raise UserError(
            f"{model.name or model.arch} needs images whose sides are multiples of its total stride, "
            f"{model.total_stride}, not {image_size} pixels; MODEL.ANY_SIZE True accepts them, without exact invariance"
        )
    filled = slots(model, rule=model.filter_rule)
    options: dict[str, Any] = {}
    form = _FORMS.get(model.activation or "")
    if form is not None:
        at_block = model.resample == "block"
        filled["activation"] = partial(
            PolynomialActivation2d, form="pointwise" if at_block else form, scale=model.scale, rule=model.filter_rule
        )
        options["resample"] = at_block
    if model.stem_activation != "none":
        # one factor of the square loses the frequencies that would alias past the stem's filter; without a stride there
        # is no filter, so the square is computed at twice the resolution
        stride = model.first_stride
        cutoff = model.stem_cutoff or (1 - 1 / stride if stride > 1 else 1.0)
        options["stem_activation"] = partial(
            PolynomialActivation2d,
            form="filtered" if stride > 1 else "upsampled",
            scale=model.scale,
            cutoff=cutoff,
            rule=model.filter_rule,
        )
        options["stem_residual"] = model.stem_activation == "residual"
    widths = [model.scaled(n) for n in FAMILY[model.arch]["widths"]]
    if model.stem_kernel is not None:
        options["stem_kernel"] = model.stem_kernel
    return convnext(
        model.arch,
        in_channels=in_channels,
        num_classes=num_classes,
        widths=widths,
        padding_mode=model.conv_padding,
        stem_stride=model.first_stride,
        stem_steps=model.stem_steps if model.first_stride == 4 else 1,
        layer_scale=model.layer_scale,
        drop_path=model.drop_path,
        whole_strides=not model.any_size,
        **filled,
        **options,
    )
