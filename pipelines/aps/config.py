"""Options of the adaptive polyphase sampling networks, and the map sizes that follow from them."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from stillpoint.core.config.catalogue import info
from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import RunConfig

Form = Literal["cifar", "imagenet"]

#: network -> number of stages that halve its map; of a U-Net, its levels
HALVINGS = {
    **dict.fromkeys(("resnet20", "resnet56"), 2),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), 3),
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d"), 3),
    "speednet": 3,
    "unet3": 3,
    "unet4": 4,
}
#: the largest image that gets the CIFAR form when MODEL.FORM is auto
SMALL = 64


class Model(NetworkConfig):
    """MODEL: the network and its subsampling."""

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
        "speednet",
        "unet3",
        "unet4",
    ] = "resnet18"
    form: Literal["auto", "cifar", "imagenet"] = Field(
        "auto", description=f"cifar: 3x3 stem without max-pool; auto: cifar for images of up to {SMALL} pixels"
    )
    conv_padding: Literal["circular", "zeros", "reflect", "replicate", "replicate_pad"] = Field(
        "circular",
        description="replicate_pad: the authors' replication by 3 pixels, which makes maps grow (CIFAR form)",
    )
    pool_only: bool = Field(
        False, description="ImageNet form: keep the stride of the first convolution; breaks shift invariance"
    )
    out_channels: int | None = Field(
        None, gt=0, description="U-Nets only: channels of the output; none: as many as the input has"
    )

    @model_validator(mode="after")
    def _of_arch(self) -> "Model":
        unet = self.arch.startswith("unet")
        if unet and (self.form != "auto" or self.pool_only):
            raise ValueError("MODEL.FORM and MODEL.POOL_ONLY are for ResNets, not for U-Nets")
        if self.downsample == "none" and self.pool_only:
            raise ValueError("MODEL.POOL_ONLY needs a MODEL.DOWNSAMPLE other than none")
        if unet and self.conv_padding not in ("circular", "zeros"):
            raise ValueError(f"MODEL.CONV_PADDING of a U-Net must be circular or zeros, got {self.conv_padding}")
        if not unet and self.out_channels is not None:
            raise ValueError("MODEL.OUT_CHANNELS is for U-Nets only")
        if self.form == "imagenet" and self.conv_padding == "replicate_pad":
            raise ValueError("MODEL.CONV_PADDING replicate_pad is for the CIFAR form, not for the ImageNet form")
        if self.arch == "speednet" and (self.pool_only or self.conv_padding not in ("circular", "zeros")):
            raise ValueError("speednet takes MODEL.CONV_PADDING circular or zeros, and no MODEL.POOL_ONLY")
        if (HALVINGS[self.arch] == 2 or self.arch == "speednet") and self.form == "imagenet":
            raise ValueError(f"{self.arch} has no ImageNet form")
        return self


class Config(RunConfig):
    """A run of this pipeline."""

    LOGITS: ClassVar[bool] = True
    REFUSED: ClassVar[dict[str, str]] = {"MODEL.BLUR_PADDING": "it is MODEL.FILTER_PADDING"}

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
    """Which of the authors' two ResNet forms: MODEL.FORM or, if that is auto, chosen by the size of the images."""
    if model.form != "auto":
        return model.form
    small = image_size <= SMALL or HALVINGS[model.arch] == 2 or model.arch == "speednet"
    return "cifar" if small else "imagenet"


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
    """The odd sides among `subsampled_sizes`, at which shift invariance is not exact."""
    return [size for size in subsampled_sizes(model, image_size) if size % 2]
