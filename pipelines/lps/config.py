"""The configuration of this pipeline."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from stillpoint.core.config import evaluations
from stillpoint.core.config.catalogue import info
from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import RunConfig, TrainConfig

#: fillings that choose their grid
CHOOSING = ("learnable_polyphase", "polyphase")
#: smallest temperature; below it, the softmax of scores is 0, 1 or NaN
COLDEST = 1e-6
SMALL = 64  # images up to this size get a stem that does not stride


class Model(NetworkConfig):
    """MODEL: a ResNet and the filling of its strides."""

    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet20", "resnet56", "basic"] = "resnet18"
    form: Literal["auto", "cifar", "imagenet"] = Field(
        "auto", description=f"form of the stem; auto: cifar up to {SMALL} pixels"
    )
    conv_padding: Literal["circular", "zeros"] = Field(
        "circular",
        description="padding of all convolutions; zeros, as in the published ResNet-50 and -101, is not exact",
    )
    strided_stem: bool = Field(
        False, description="ImageNet form: the first convolution strides, which breaks exact invariance"
    )
    max_pool_margin: Literal["circular", "zeros"] = Field(
        "circular", description="ImageNet form: padding of the stem's dense max-pool"
    )
    sample_after_convolution: bool = Field(
        False, description="ResNets of BasicBlocks: sample after a block's second convolution, not before it"
    )
    decoder: Literal["none", "deeplabv3plus"] = Field(
        "none", description="deeplabv3plus: a class for each pixel, from the ResNet's first and last stage"
    )
    decoder_channels: int = Field(256, ge=1)
    rates: tuple[PositiveInt, ...] = Field((6, 12, 18), description="dilations of the decoder's pyramid")
    last_rate_padding: Literal["circular", "zeros"] | None = Field(
        None, description="padding at the last of RATES only; none: CONV_PADDING; zeros: as in the authors' code"
    )
    upsample: Literal["bilinear", "polyphase"] = Field(
        "bilinear", description="polyphase: upsample on the grids that the downsampling chose (LPU)"
    )
    upsample_gain: float = Field(
        4.0,
        gt=0,
        description="gain of the filter after UPSAMPLE polyphase; 4 keeps a map's mean, as in the authors' tests",
    )

    @model_validator(mode="after")
    def _segments(self) -> "Model":
        if self.decoder == "none":
            names = ("decoder_channels", "rates", "last_rate_padding", "upsample", "upsample_gain")
            for name in names:
                if (value := getattr(self, name)) != type(self).model_fields[name].default:
                    raise ValueError(f"MODEL.{name.upper()} {value} changes nothing with MODEL.DECODER none")
        elif self.arch == "basic":
            raise ValueError("MODEL.DECODER deeplabv3plus needs a ResNet, not MODEL.ARCH basic")
        elif self.upsample == "polyphase" and self.downsample not in CHOOSING:
            raise ValueError(
                f"MODEL.UPSAMPLE polyphase needs chosen grids: MODEL.DOWNSAMPLE must be {' or '.join(CHOOSING)}, got "
                f"{self.downsample}"
            )
        return self

    @model_validator(mode="after")
    def _possible(self) -> "Model":
        if self.downsample == "none":
            for name in ("strided_stem", "max_pool_margin", "sample_after_convolution"):
                if (value := getattr(self, name)) != type(self).model_fields[name].default:
                    raise ValueError(f"MODEL.{name.upper()} {value} changes nothing with MODEL.DOWNSAMPLE none")
            if self.arch == "basic":
                raise ValueError("MODEL.ARCH basic has no strided form: it needs a MODEL.DOWNSAMPLE")
        if self.sample_after_convolution and self.arch in ("resnet50", "resnet101", "basic"):
            raise ValueError(f"MODEL.SAMPLE_AFTER_CONVOLUTION needs BasicBlocks, which {self.arch} does not have")
        return self


class Train(TrainConfig):
    """TRAIN, and the temperature of soft sampling, which starts at 1 and changes after whole epochs or steps."""

    tau: Literal["constant", "step", "multistep", "linear"] = Field(
        "constant", description="step: times TAU_GAMMA every TAU_EVERY; multistep and linear: by TAU_MILESTONES"
    )
    tau_per: Literal["epoch", "step"] = Field(
        "epoch", description="the unit of TAU_EVERY and TAU_MILESTONES; the authors' code defaults to steps"
    )
    tau_every: int = Field(10, ge=1)
    tau_gamma: float = Field(0.85, gt=0, le=1)
    tau_min: float = Field(0.0, ge=0)
    backbone_lr_factor: float = Field(
        1.0, gt=0, description="segmentation: the rate of the ResNet, its scorers included, is LR times this"
    )
    tau_milestones: tuple[int, ...] = ()
    tau_temperatures: tuple[float, ...] = Field((), description="one for each milestone, 1e-6 at least")

    @model_validator(mode="after")
    def _temperatures(self) -> "Train":
        if self.tau in ("multistep", "linear"):
            counts = len(self.tau_milestones), len(self.tau_temperatures)
            if counts[0] != counts[1] or not counts[0] or list(self.tau_milestones) != sorted(self.tau_milestones):
                raise ValueError(
                    f"TRAIN.TAU {self.tau} needs TAU_MILESTONES in ascending order, and as many TAU_TEMPERATURES, at "
                    f"least one of each, got {list(self.tau_milestones)} and {list(self.tau_temperatures)}"
                )
            if min(self.tau_temperatures) < COLDEST:
                least = min(self.tau_temperatures)
                raise ValueError(f"TRAIN.TAU_TEMPERATURES must be at least {COLDEST:.0e}, got {least}")
        return self


class Config(RunConfig):
    """A run of the lps pipeline."""

    LOGITS: ClassVar[bool] = True

    model: Model = Model()
    train: Train = Train()

    @model_validator(mode="after")
    def _of_data(self) -> "Config":
        of_maps, decoder = info(self.data.name).label_maps, self.model.decoder
        if of_maps and decoder == "none":
            raise ValueError(f"{self.data.name} has a class for each pixel: set MODEL.DECODER deeplabv3plus")
        if not of_maps and decoder != "none":
            raise ValueError(
                f"MODEL.DECODER {decoder} predicts a class for each pixel: {self.data.name} has one per image"
            )
        if decoder == "none" and self.train.backbone_lr_factor != 1:
            raise ValueError("TRAIN.BACKBONE_LR_FACTOR changes nothing with MODEL.DECODER none")
        return self

    def known_metrics(self) -> dict[str, tuple[str, ...]]:
        if info(self.data.name).label_maps:
            return evaluations.reads("label_maps")
        read = ("max_shift", "margin") if info(self.data.name).size > SMALL else ("max_shift",)
        own: dict[str, tuple[str, ...]] = {"standard_and_circular": read}
        return super().known_metrics() | (own if self.evaluate.protocol == "authors" else {})

    def known_protocols(self) -> tuple[str, ...]:
        return ("stillpoint", "authors")
