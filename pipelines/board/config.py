"""The configuration of the board: its networks, and the training options of methods that need more than a loss."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import RunConfig, TrainConfig


class Model(NetworkConfig):
    """MODEL: the network, its padding, its stem, and what replaces its strides."""

    arch: Literal["resnet8", "resnet18", "resnet20", "resnet56", "speednet"] = Field(
        "resnet20", description="a ResNet, or the small network built for speed, which strides after max-pools"
    )
    conv_padding: Literal["circular", "zeros"] = "circular"
    stem: Literal["plain", "strided", "twin", "modulus", "scattering", "sparse"] = Field(
        "plain",
        description="plain: a 3x3 convolution; sparse: sparse coding in its place; strided: a 7x7 convolution and a "
        "max-pool; twin, modulus, scattering: wavelets. The last four have stride 4",
    )

    @model_validator(mode="after")
    def _own_stem(self) -> "Model":
        if self.arch == "speednet" and self.stem != "plain":
            raise ValueError(f"MODEL.STEM {self.stem} is for ResNets: speednet has its own first layer")
        return self


class Train(TrainConfig):
    """TRAIN, with the options of learnt sampling and of TIPS, which other methods ignore."""

    tau_end: float = Field(
        0.05, gt=0, le=1, description="temperature of learnt sampling in the last epoch; it falls linearly from 1"
    )
    alpha: float = Field(0.35, ge=0, lt=1, description="TIPS: weight of undoing the shift; the task's is 1 - ALPHA")
    wake_up_at: int = Field(1, ge=1, description="TIPS: first epoch, from 1, with the undoing loss")


class Config(RunConfig):
    """A run of the board."""

    LOGITS: ClassVar[bool] = True

    model: Model = Model()
    train: Train = Train()
