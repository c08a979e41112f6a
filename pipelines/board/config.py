"""The options of the board's networks, and of training for methods that need more than a loss."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import RunConfig, TrainConfig


class Model(NetworkConfig):
    """MODEL: the network, its padding, its stem, and the filling of its strides."""

    arch: Literal["resnet8", "resnet18", "resnet20", "resnet56", "speednet"] = Field(
        "resnet20", description="a ResNet, or the small network built for speed, which strides after max-pools"
    )
    conv_padding: Literal["circular", "zeros"] = "circular"
    stem: Literal["plain", "strided", "twin", "modulus", "scattering", "sparse"] = Field(
        "plain",
        description="plain: 3x3 convolution; sparse: convolutional sparse code; of stride 4: strided: 7x7 convolution "
        "and max-pool; twin, modulus, scattering: wavelets",
    )

    @model_validator(mode="after")
    def _own_stem(self) -> "Model":
        if self.arch == "speednet" and self.stem != "plain":
            raise ValueError(f"MODEL.STEM {self.stem} applies to ResNets: speednet has its own first layer")
        return self


class Train(TrainConfig):
    """TRAIN: core's settings, and those of two methods, which the others ignore."""

    tau_end: float = Field(
        0.05, gt=0, le=1, description="LPS: temperature in the last epoch, to which it falls linearly from 1"
    )
    alpha: float = Field(0.35, ge=0, lt=1, description="TIPS: weight of the undoing loss; the task has 1 - ALPHA")
    wake_up_at: int = Field(1, ge=1, description="TIPS: first epoch, from 1, with the undoing loss")


class Config(RunConfig):
    """A run of the board."""

    LOGITS: ClassVar[bool] = True

    model: Model = Model()
    train: Train = Train()
