"""The configuration of this pipeline."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from stillpoint.core.base.lookup import check_name
from stillpoint.core.config.catalogue import DATASETS
from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.config.slot import BACKBONES
from stillpoint.pipelines.blurpool.catalogue import ARCHITECTURES

SMALL = 64  # images up to this size get a stem that does not stride
RESIDUAL = ("resne", "wide_resnet")


class Model(NetworkConfig):
    """MODEL: a network of torchvision and the filling of its strides."""

    arch: str = Field(
        "resnet18", description="a torchvision network by its name there, or your own backbone, MODULE:NAME"
    )
    pool_only: bool = Field(
        True, description="keep the stride of the first convolution (False in AlexNet's entries, as published)"
    )
    relu_first: bool = Field(True, description="AlexNet: ReLU before the first blur")
    replace_stride_with_dilation: tuple[bool, bool, bool] = Field(
        (False, False, False), description="ResNets: dilate the stages 2 to 4 instead of subsampling"
    )
    zero_init_residual: bool = Field(False, description="ResNets: start each block's last batch norm at 0")
    width_divisor: int | None = Field(
        None,
        ge=1,
        description="MobileNet: scaled channels are multiples of it; none: 8 as in torchvision, 1 if antialiased",
    )

    @model_validator(mode="after")
    def _possible(self) -> "Model":
        check_name("MODEL.ARCH", self.arch, {**dict.fromkeys(ARCHITECTURES), **BACKBONES})
        filled, residual = self.downsample != "none", self.arch.startswith(RESIDUAL)
        stem = self.arch == "alexnet" or (filled and (residual or self.arch.startswith("densenet")))
        for name, known, whose in (
            ("pool_only", stem, "AlexNet, and for ResNets and DenseNets with a MODEL.DOWNSAMPLE"),
            (
                "relu_first",
                self.arch == "alexnet" and filled and not self.pool_only,
                "AlexNet with a MODEL.DOWNSAMPLE and MODEL.POOL_ONLY False",
            ),
            ("replace_stride_with_dilation", residual, "ResNets"),
            ("zero_init_residual", residual, "ResNets"),
        ):
            # not WIDTH_DIVISOR, which a recipe states once for all its networks
            if not known and (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(
                    f"MODEL.{name.upper()} {value} changes nothing in {self.arch} with MODEL.DOWNSAMPLE "
                    f"{self.downsample}: it is for {whose}"
                )
        if self.width < 1 and self.arch.startswith("resnext"):
            raise ValueError(f"MODEL.WIDTH of {self.arch} must be at least 1 for its groups, got {self.width}")
        return self


class Config(RunConfig):
    """A run of the blurpool pipeline."""

    LOGITS: ClassVar[bool] = True
    REFUSED: ClassVar[dict[str, str]] = {"MODEL.PADDING": "it is MODEL.FILTER_PADDING"}

    model: Model = Model()

    def known_metrics(self) -> dict[str, tuple[str, ...]]:
        return super().known_metrics() | {
            "windows": ("max_shift", "repeats", "margin"),
            "diagonal": ("max_shift", "limit_all_shifts", "margin"),
            "feature_distance": ("max_shift", "limit_all_shifts"),
        }

    def known_protocols(self) -> tuple[str, ...]:
        return ("stillpoint", "authors")

    @model_validator(mode="after")
    def _strides(self) -> "Config":
        size = self.data.image_size or DATASETS[self.data.name].size
        if size <= SMALL and not self.model.pool_only and self.model.arch != "alexnet":
            raise ValueError(
                f"MODEL.POOL_ONLY False changes nothing at {size} pixels: up to {SMALL} the first convolution has no "
                "stride anyway"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _start(cls, settings: Any) -> Any:
        """Replaces ``{arch}`` in TRAIN.FINETUNE by MODEL.ARCH, so that one pattern serves a whole grid."""
        try:
            pattern, arch = settings["TRAIN"]["FINETUNE"], settings["MODEL"]["ARCH"]
        except (KeyError, TypeError):
            return settings
        # a recipe without a network keeps its pattern
        if not isinstance(pattern, str) or not settings["MODEL"].get("NAME"):
            return settings
        return {**settings, "TRAIN": {**settings["TRAIN"], "FINETUNE": pattern.replace("{arch}", arch)}}
