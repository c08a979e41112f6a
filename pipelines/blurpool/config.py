"""What only this pipeline can be told."""

from typing import Any, ClassVar, Literal

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
    width: float = Field(1.0, gt=0, description="multiplier of the channels (ResNet, VGG and MobileNet)")
    width_divisor: int | None = Field(
        None,
        ge=1,
        description="MobileNet: scaled channels are multiples of it; none: 8 as in torchvision, 1 where antialiased",
    )

    @model_validator(mode="after")
    def _possible(self) -> "Model":
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"unknown MODEL.ARCH {self.arch!r}: one of {', '.join(ARCHITECTURES)}")
        if self.downsample == "pasa" and self.filter_size % 2 == 0:
            raise ValueError(f"MODEL.DOWNSAMPLE pasa needs an odd MODEL.FILTER_SIZE, not {self.filter_size}")
        if self.width != 1 and self.arch.startswith(("alexnet", "densenet")):
            raise ValueError(f"MODEL.WIDTH is for ResNets, VGGs and MobileNet; {self.arch} has its own channels only")
        if self.width < 1 and self.arch.startswith("resnext"):
            raise ValueError(f"MODEL.WIDTH {self.width} leaves the {self.arch}'s groups without channels")
        return self


class Config(RunConfig):
    """A run of the blurpool pipeline."""

    LOGITS: ClassVar[bool] = True

    model: Model = Model()

    def known_metrics(self) -> tuple[str, ...]:
        return (*super().known_metrics(), "windows", "diagonal", "feature_distance")

    @model_validator(mode="before")
    @classmethod
    def _start(cls, settings: Any) -> Any:
        """``{arch}`` in TRAIN.FINETUNE becomes the network's name in torchvision: a grid's files have one pattern."""
        try:
            pattern, arch = settings["TRAIN"]["FINETUNE"], settings["MODEL"]["ARCH"]
        except (KeyError, TypeError):
            return settings
        # a recipe without a network keeps its pattern
        if not isinstance(pattern, str) or not settings["MODEL"].get("NAME"):
            return settings
        return {**settings, "TRAIN": {**settings["TRAIN"], "FINETUNE": pattern.replace("{arch}", arch)}}
