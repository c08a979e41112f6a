"""What the networks of adaptive polyphase sampling can be told, and what follows from it without building one."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import ModelConfig, RunConfig

Form = Literal["cifar", "imagenet"]

#: stages that halve the map, by name; the U-Nets' levels
HALVINGS = {
    **dict.fromkeys(("resnet20", "resnet56"), 2),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), 3),
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d"), 3),
    "unet3": 3,
    "unet4": 4,
}
#: the authors' spellings of a criterion -> ours
SPELLINGS = {"l2min": "l2_min", "l1min": "l1_min", "non_abs_max": "max"}

#: the largest image that gets the CIFAR form when MODEL.FORM is auto
SMALL = 64


class Model(ModelConfig):
    """MODEL: the network, and how it subsamples."""

    arch: Literal[
        "resnet18",
        "resnet20",
        "resnet34",
        "resnet50",
        "resnet56",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "unet3",
        "unet4",
    ] = "resnet18"
    form: Literal["auto", "cifar", "imagenet"] = Field(
        "auto", description=f"cifar: 3x3 stem without max-pool; auto: cifar for images of up to {SMALL} pixels"
    )
    downsample: Literal["none", "lpf", "aps", "sinc"] = Field(
        "none",
        description="none: strided convolutions; lpf: BlurPool; aps: adaptive polyphase; sinc: ideal low-pass",
    )
    filter_size: int = Field(
        1, description="taps of the binomial filter, 1 to 7", json_schema_extra={"minimum": 1, "maximum": 7}
    )
    criterion: Literal["l2", "l1", "l_infty", "max", "l2_min", "l1_min"] = Field(
        "l2",
        description="what aps maximises (or minimises) over the phases; l2min, l1min and non_abs_max are read too; "
        "after a blur l1 and l1_min tie and rounding chooses",
    )
    select: Literal["before_blur", "after_blur"] | None = Field(
        None, description="the map whose phases are compared; none: before_blur in the CIFAR form, after_blur elsewhere"
    )
    conv_padding: Literal["circular", "zeros", "reflect", "replicate", "replicate_pad"] = Field(
        "circular",
        description="replicate_pad: the authors' replication by 3 pixels, with which maps grow (CIFAR form)",
    )
    blur_padding: Literal["circular", "zeros", "reflect", "replicate"] | None = Field(
        None,
        description="none: circular; reflect in a CIFAR form, zeros in a U-Net, whose convolutions are not circular",
    )
    pool_only: bool = Field(
        False, description="ImageNet form: leave the stride of the first convolution as it is; not shift invariant then"
    )
    width: int | None = Field(None, gt=0, description="channels of the first stage; none: 64, or 16 with three stages")
    norm: Literal["batch", "instance"] = Field("batch", description="U-Nets only")
    out_channels: int | None = Field(None, gt=0, description="U-Nets only; none: as many as the image has")

    @field_validator("criterion", mode="before")
    @classmethod
    def _spelling(cls, value: object) -> object:
        return SPELLINGS.get(value, value) if isinstance(value, str) else value

    @field_validator("filter_size")
    @classmethod
    def _known_filter(cls, value: int) -> int:
        if not 1 <= value <= 7:
            raise ValueError("binomial filters have 1 to 7 taps")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "Model":
        unet = self.arch.startswith("unet")
        if self.downsample == "none" and self.filter_size != 1:
            raise ValueError(
                f"a network with MODEL.DOWNSAMPLE none has no filter: MODEL.FILTER_SIZE {self.filter_size}"
            )
        if self.downsample == "sinc" and self.filter_size != 1:
            raise ValueError(
                f"MODEL.DOWNSAMPLE sinc has no binomial filter: MODEL.FILTER_SIZE {self.filter_size} is of lpf and aps"
            )
        if self.downsample != "aps" and (self.criterion != "l2" or self.select is not None):
            raise ValueError("MODEL.CRITERION and MODEL.SELECT are of MODEL.DOWNSAMPLE aps")
        if unet and (self.form != "auto" or self.pool_only):
            raise ValueError("MODEL.FORM and MODEL.POOL_ONLY are of ResNets, not of U-Nets")
        if self.downsample == "none" and (self.blur_padding is not None or self.pool_only):
            raise ValueError("MODEL.BLUR_PADDING and MODEL.POOL_ONLY are of networks with a filling of the slot")
        if unet and self.conv_padding not in ("circular", "zeros"):
            raise ValueError(f"a U-Net has MODEL.CONV_PADDING circular or zeros, not {self.conv_padding}")
        if not unet and (self.norm != "batch" or self.out_channels is not None):
            raise ValueError("MODEL.NORM and MODEL.OUT_CHANNELS are of U-Nets, not of ResNets")
        if self.form == "imagenet" and self.conv_padding == "replicate_pad":
            raise ValueError("MODEL.CONV_PADDING replicate_pad is of the CIFAR form, not of the ImageNet form")
        if HALVINGS[self.arch] == 2 and self.form == "imagenet":
            raise ValueError(f"{self.arch} has no ImageNet form")
        return self


class Config(RunConfig):
    """A run of this pipeline."""

    LOGITS: ClassVar[bool] = True

    model: Model = Model()

    def known_metrics(self) -> dict[str, tuple[str, ...]]:
        if info(self.data.name).pairs:
            kinds = ("equivariance", "equivariance_half_turn", "equivariance_noisy", "equivariance_white_noise")
            return {"reconstruction": (), **dict.fromkeys(kinds, ("max_shift", "repeats"))}
        if self.evaluate.protocol == "stillpoint":
            return super().known_metrics()
        # the authors draw one pair for a batch
        once = ("circular", "crop", "erase", "flips")
        return {
            name: tuple(field for field in reads if name not in once or field != "repeats")
            for name, reads in super().known_metrics().items()
        }

    def known_protocols(self) -> tuple[str, ...]:
        return ("stillpoint",) if info(self.data.name).pairs else ("stillpoint", "authors")


def form(model: Model, image_size: int) -> Form:
    """Which of the authors' two ResNets is meant, from MODEL.FORM and, where that is auto, the size of the images."""
    if model.form != "auto":
        return model.form
    return "cifar" if image_size <= SMALL or HALVINGS[model.arch] == 2 else "imagenet"


def subsampled_sizes(model: Model, image_size: int) -> list[int]:
    """Sides of the square maps that the network subsamples in turn, in pixels, for square images of `image_size`."""
    count, size = HALVINGS[model.arch], image_size
    if not model.arch.startswith("unet") and form(model, image_size) == "imagenet":
        if model.pool_only:
            size, count = -(-size // 2), count + 1
        else:
            count += 2
    sizes = []
    for _ in range(count):
        sizes.append(size)
        size = -(-size // 2)
    return sizes


def odd_sizes(model: Model, image_size: int) -> list[int]:
    """Those of `subsampled_sizes` that are odd: there, and so in the whole network, exact shift invariance is lost."""
    return [size for size in subsampled_sizes(model, image_size) if size % 2]
