"""What only this pipeline can be told."""

from typing import Literal

from pydantic import Field, model_validator

from core.config import ModelConfig, RunConfig
from pipelines.blurpool.catalogue import ARCHITECTURES


class Model(ModelConfig):
    """A network of torchvision's and what stands where it would stride."""

    arch: str = Field("resnet18", description="a network of torchvision's by its name there")
    downsample: Literal["none", "lpf", "pasa"] = Field(
        "none", description="none: strides; lpf: BlurPool; pasa: adaptive filters"
    )
    filter_size: int = Field(4, ge=1, le=7, description="taps of the filter along an axis")
    groups: int = Field(8, ge=1, description="groups of channels that share a predicted filter (pasa)")
    normalise: Literal["joint", "group"] = Field(
        "joint",
        description="softmax of predicted filters over all groups together, as published, or within each (pasa)",
    )
    padding: Literal["reflect", "replicate", "zeros", "circular"] = Field("reflect", description="of the filters")
    pool_only: bool = Field(
        True, description="leave the stride of the first convolution alone (AlexNet: False is the paper's)"
    )
    relu_first: bool = Field(True, description="AlexNet: ReLU before the first blur")
    replace_stride_with_dilation: tuple[bool, bool, bool] = Field(
        (False, False, False), description="ResNets: dilate the stages 2 to 4 instead of subsampling"
    )
    zero_init_residual: bool = Field(False, description="ResNets: start each block's last batch norm at 0")
    width: float = Field(1.0, gt=0, description="MobileNet: multiplier of the channels")

    @model_validator(mode="after")
    def _possible(self) -> "Model":
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"unknown MODEL.ARCH {self.arch!r}: one of {', '.join(ARCHITECTURES)}")
        if self.downsample == "pasa" and self.filter_size % 2 == 0:
            raise ValueError(f"MODEL.DOWNSAMPLE pasa needs an odd MODEL.FILTER_SIZE, not {self.filter_size}")
        return self


class Config(RunConfig):
    """A run of the blurpool pipeline."""

    model: Model = Model()
