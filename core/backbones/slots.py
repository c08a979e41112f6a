"""Builds the factories that fill a backbone's slots from a MODEL section."""

from typing import Any

from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.layers.downsample import ByPlace, DownsampleFactory, downsample_factory
from stillpoint.core.layers.slots import activation_factory, norm_factory


def downsample(model: NetworkConfig, **defaults: Any) -> DownsampleFactory | None:
    """The factory of the Downsample slot; None for plain strides.

    `defaults` are a paper's options, used where the section sets none and the filling has them. ValueError for an
    option that the filling does not have.
    """
    if model.downsample in model.UNFILLED:
        return None
    usual = model.fill("", **defaults)
    factory = downsample_factory(usual.kind, **usual.options)
    places = {place: model.fill(place, **defaults) for place in model.places()}
    if not places:
        return factory
    return ByPlace(factory, {place: downsample_factory(fill.kind, **fill.options) for place, fill in places.items()})


def slots(model: NetworkConfig, **defaults: Any) -> dict[str, Any]:
    """A backbone's keyword options `downsample`, `activation` and `norm`, as far as the section sets them."""
    found: dict[str, Any] = {"downsample": downsample(model, **defaults)}
    if model.activation is not None:
        found["activation"] = activation_factory(model.activation)
    if model.norm is not None:
        found["norm"] = norm_factory(model.norm)
    return found
