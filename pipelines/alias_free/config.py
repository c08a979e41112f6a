"""The options of alias-free convnets, and the shifts of their evaluations."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import EvaluateConfig, RunConfig

#: networks for small images -> stride of the stem, total stride of the rest
SMALL_STRIDES = {"convnext_mini": (1, 4), "convnext_nano": (2, 2)}


class Model(NetworkConfig):
    """MODEL: a ConvNeXt and the fillings of its slots."""

    arch: Literal[
        "convnext_tiny", "convnext_small", "convnext_base", "convnext_large", "convnext_xlarge", "convnext_mini",
        "convnext_nano",
    ] = "convnext_tiny"  # fmt: skip
    conv_padding: Literal["zeros", "circular"] = Field("circular", description="padding of the 7x7 convolutions")
    stem_kernel: int | None = Field(
        None, ge=1, description="kernel size of the first convolution; none: the network's own"
    )
    stem_stride: Literal[1, 2, 4] | None = Field(None, description="stride of the stem; none: the network's own")
    stem_steps: Literal[1, 2] = Field(1, description="2: split a stem's stride of 4 into two strides of 2")
    stem_activation: Literal["none", "residual", "plain"] = Field(
        "none",
        description="a polynomial between the stem's convolution and its filter: added with a trained gain, "
        "initially 0, or on its own",
    )
    stem_cutoff: float | None = Field(
        None,
        gt=0,
        le=1,
        description="cutoff of one factor of the stem's square, as a fraction of the highest frequency; none: "
        "1 - 1/STEM_STRIDE, the largest that does not alias. Whole-pixel shifts do not reveal a larger one",
    )
    scale: float = Field(
        7.0,
        gt=0,
        description="initial scale of a polynomial's input and output, then trained. The authors' 7 presumes their "
        "LAYER_SCALE",
    )
    layer_scale: float = Field(
        1e-6, gt=0, description="initial scale of each block's branch, per channel, then trained"
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="rate of dropped branches in the last block, rising from 0 in the first"
    )
    resample: Literal["activation", "block"] = Field(
        "activation",
        description="where a block works at twice the resolution: around the polynomial, or around both 1x1 "
        "convolutions too, as in the authors' code: the same function with 3.4 times the multiplications (17.678 G "
        "instead of 5.193 G at 224)",
    )
    filter_rule: Literal["exact", "authors"] = Field(
        "exact",
        description="authors: their filters, which drop one more bin for sizes that are multiples of 4 but not of 8",
    )
    any_size: bool = Field(
        False,
        description="accept images whose sides are not multiples of the total stride, which breaks exact invariance",
    )

    @model_validator(mode="after")
    def _together(self) -> "Model":
        if self.resample == "block" and self.activation != "polynomial":
            raise ValueError(
                "MODEL.RESAMPLE block needs MODEL.ACTIVATION polynomial: nothing else uses an upsampled map"
            )
        if self.stem_steps == 2 and (self.stem_stride or 4) != 4:
            raise ValueError(f"MODEL.STEM_STEPS 2 needs MODEL.STEM_STRIDE 4, not {self.stem_stride}")
        if self.stem_cutoff is not None and self.stem_activation == "none":
            raise ValueError("MODEL.STEM_CUTOFF needs a MODEL.STEM_ACTIVATION")
        return self

    @property
    def first_stride(self) -> int:
        """The stem's stride."""
        return self.stem_stride or SMALL_STRIDES.get(self.arch, (4, 8))[0]

    @property
    def total_stride(self) -> int:
        return self.first_stride * SMALL_STRIDES.get(self.arch, (4, 8))[1]


class Evaluate(EvaluateConfig):
    """EVALUATE: core's settings, and the grids of shifts."""

    grid_shift: int = Field(
        8, ge=2, description="integer_grid, half_grid: shifts of 1..GRID_SHIFT-1 on both axes (paper: 32)"
    )
    grid_factor: int = Field(4, ge=2, description="fraction_grid: fractions with denominators up to this")
    crop_shift: int = Field(
        3,
        ge=1,
        description="crop_grid: windows up to this many pixels from the centre; needs an EVALUATE.MARGIN of twice that",
    )
    translation: float = Field(
        8.0, gt=0, description="translation_grid: the largest translation, in 280ths of the side"
    )
    translation_steps: int = Field(4, ge=2, description="translation_grid: translations tried on each axis")
    limit_grids: int = Field(200, ge=1, description="number of images for the grids")


class Config(RunConfig):
    """A run of this pipeline."""

    LOGITS: ClassVar[bool] = True

    model: Model = Model()
    evaluate: Evaluate = Evaluate()

    def known_metrics(self) -> dict[str, tuple[str, ...]]:
        return {
            **super().known_metrics(),
            "integer_grid": ("grid_shift", "limit_grids"),
            "half_grid": ("grid_shift", "limit_grids"),
            "fraction_grid": ("grid_factor", "limit_grids"),
            "crop_grid": ("crop_shift", "margin", "limit_grids"),
            "translation_grid": ("translation", "translation_steps", "limit_grids"),
        }

    def known_protocols(self) -> tuple[str, ...]:
        return ("stillpoint", "authors")

    @model_validator(mode="after")
    def _grids(self) -> "Config":
        if "crop_grid" in self.evaluate.metrics and self.evaluate.margin < 2 * self.evaluate.crop_shift:
            raise ValueError(
                f"EVALUATE.METRICS crop_grid cuts windows up to {self.evaluate.crop_shift} pixels from the centre: "
                f"set EVALUATE.MARGIN to at least {2 * self.evaluate.crop_shift}"
            )
        return self
