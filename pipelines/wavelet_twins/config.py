"""The configuration of this pipeline."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import EvaluateConfig, RunConfig
from stillpoint.pipelines.wavelet_twins.catalogue import architecture, form, sections


class Model(NetworkConfig):
    """MODEL: an architecture of the paper, its configuration, and penalty and record of its wavelet channels."""

    arch: str = Field(
        "dtcwpt_resnet18", description="architecture, as the authors name it: dtcwpt_zhang_resnet34, AlexNet, ..."
    )
    config: str = Field(
        "", description="configuration: Ft40YEx_mod, Bf3, ...; empty: Std, which wavelet networks do not have"
    )
    UNFILLED: ClassVar[tuple[str, ...]] = ("auto",)

    downsample: str = Field(
        "auto",
        description="what replaces the strides; auto: what ARCH and CONFIG say, nothing, a blur (Zhang) or an adaptive "
        "one (Zou); or another filling, which the paper does not have",
    )
    penalty: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (),
        description="factor of the penalty on each section of packets (the authors' --lambda-params); empty: none",
    )
    record_gradients: bool = Field(
        False, description="record each mixing row's largest gradient at every update (the authors' --get-gradients)"
    )

    @model_validator(mode="after")
    def _of_arch(self) -> "Model":
        if not self.config and "dtcwpt" in self.arch.lower():
            return self
        options = form(self.arch, self.config)
        count = sections(self.arch, self.config)
        if self.penalty and not count:
            raise ValueError(f"MODEL.PENALTY needs a network with wavelets, which {self.arch} does not have")
        if self.penalty and len(self.penalty) != count:
            raise ValueError(
                f"MODEL.PENALTY needs a factor for each of the {count} sections of packets of {self.arch} "
                f"{self.config or 'Std'}, got {len(self.penalty)}"
            )
        if self.record_gradients and not count:
            raise ValueError(f"MODEL.RECORD_GRADIENTS needs a network with wavelets, which {self.arch} does not have")
        if self.downsample != "auto" and (architecture(self.arch).pooling != "none" or options.ablation):
            raise ValueError(
                f"MODEL.DOWNSAMPLE {self.downsample} needs a network without a blur, but {self.arch} "
                f"{self.config or 'Std'} has one"
            )
        return self


class Evaluate(EvaluateConfig):
    """EVALUATE: how shifted crops are made; the defaults are the authors' for CIFAR-10."""

    directions: tuple[Literal["horizontal", "vertical", "diagonal", "all"], ...] = Field(
        ("horizontal", "vertical", "diagonal"),
        description='of the shifts; the cost of "all" is the square of the others\'',
    )
    kl_shift: int = Field(8, ge=1, description="largest shift in pixels for the divergence")
    kl_divide: int = Field(2, ge=1, description="steps per pixel for the divergence")
    flip_shift: int = Field(
        4, ge=1, description="largest shift in whole pixels for the flip rates (authors: 4 on CIFAR-10, 8 on ImageNet)"
    )
    limit_shifts: int | None = Field(
        None,
        ge=1,
        description="shift only this many images: the first, or evenly spaced if images are sorted by class; none: all",
    )
    imagenet_p: str = Field("", description="folder of ImageNet-P for the evaluation perturbations")
    perturbation_steps: int = Field(5, ge=1, description="largest step in frames of the flip rates on ImageNet-P")


class Config(RunConfig):
    """A run of the wavelet_twins pipeline."""

    LOGITS: ClassVar[bool] = True

    model: Model = Model()
    evaluate: Evaluate = Evaluate()

    def known_metrics(self) -> dict[str, tuple[str, ...]]:
        shifts = ("directions", "kl_shift", "kl_divide", "flip_shift", "limit_shifts")
        return super().known_metrics() | {
            "tencrops": (),
            "shifts": shifts,
            "shifts_normalised": shifts,
            "perturbations": ("imagenet_p", "perturbation_steps"),
        }
