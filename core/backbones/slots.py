"""A MODEL section -> the factories that a backbone fills its slots with."""

from typing import Any

from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.layers.downsample import ByPlace, DownsampleFactory, downsample_factory
from stillpoint.core.layers.slots import activation_factory, norm_factory


def downsample(model: NetworkConfig, **defaults: Any) -> DownsampleFactory | None:
    """The factory of what stands where the network would stride; None where nothing does.

    `defaults` are a paper's options of the filling, where the section says nothing and the filling has them. ValueError
    for an option that the filling does not have.
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
    """The keyword options `downsample`, `activation` and `norm` of a backbone, those that the section speaks of."""
    found: dict[str, Any] = {"downsample": downsample(model, **defaults)}
    if model.activation is not None:
        found["activation"] = activation_factory(model.activation)
    if model.norm is not None:
        found["norm"] = norm_factory(model.norm)
    return found
