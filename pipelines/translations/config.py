"""The configuration of this pipeline."""

from typing import Literal

from pydantic import Field

from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import RunConfig


class Model(NetworkConfig):
    """MODEL: a small classifier of one-channel images."""

    arch: Literal["perceptron", "convnet"] = "perceptron"
    hidden: int = Field(
        100, ge=1, description="neurons between the two linear layers (perceptron, and unmatched convnet)"
    )
    circular: bool = Field(False, description="pad convolutions and pools circularly")
    head: Literal["flatten", "average"] = Field(
        "flatten", description="input of the linear layers: all positions, or their mean"
    )
    front: Literal["none", "scattering"] = Field("none", description="a fixed transform before the first convolution")
    dropout: float = Field(0.5, ge=0, lt=1)
    match: bool = Field(
        True, description="choose widths so that the number of parameters is TwoConvTwoFullNet's within 5 %"
    )


class Config(RunConfig):
    """A run of the translations pipeline."""

    model: Model = Model()

    def known_metrics(self) -> dict[str, tuple[str, ...]]:
        own = {"translated": ("repeats",), "confusion": (), "samples": (), "maximisers": ()}
        return super().known_metrics() | own
