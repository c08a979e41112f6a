"""The configuration of this pipeline."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import RunConfig, TrainConfig

#: the paper's own filling
LAYER = "translation_invariant"


class Model(NetworkConfig):
    """MODEL: a ResNet and the filling that halves its maps."""

    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet20"] = "resnet18"
    downsample: str = Field(
        "translation_invariant", description="what halves the maps: a filling, or your own MODULE:CLASS"
    )
    num_down: int = Field(3, description="number of halvings: 3 to 5, with Bottlenecks 4 or 5; resnet20 has 2")
    conv_padding: Literal["zeros", "circular"] = "zeros"
    zero_init_residual: bool = Field(True, description="start each block's last batch norm at 0, as the code does")

    @model_validator(mode="after")
    def _possible(self) -> "Model":
        known = {"resnet20": (2,), "resnet18": (3, 4, 5), "resnet34": (3, 4, 5)}.get(self.arch, (4, 5))
        if self.num_down not in known:
            raise ValueError(
                f"MODEL.NUM_DOWN of {self.arch} must be {' or '.join(map(str, known))}, got {self.num_down}"
            )
        if self.downsample == "none":
            raise ValueError("MODEL.DOWNSAMPLE must not be none: nothing would halve the maps")
        return self


class Train(TrainConfig):
    """TRAIN: core's settings, and the two losses of the paper."""

    alpha: float = Field(0.35, ge=0, lt=1, description="weight of the undoing loss; the task has 1 - ALPHA")
    wake_up_at: int = Field(1, ge=1, description="first epoch, from 1, with the undoing loss")
    evenness: bool = Field(True, description="penalise even weights; the published code fails with it")
    shift: Literal["standard", "circular"] = Field(
        "standard",
        description="shift of the maps: standard loses what leaves, as in the paper; circular: as in the code",
    )
    max_shift: float = Field(0.25, ge=0, le=1, description="largest shift, as a fraction of the side of SHIFT_OF")
    shift_of: Literal["map", "image"] = Field(
        "map",
        description="image: the same number of pixels at every level, as in the code; small maps then leave entirely",
    )
    attached: bool = Field(False, description="let gradients flow into the shifted map, as in the published code")


class Config(RunConfig):
    """A run of the tips pipeline."""

    LOGITS: ClassVar[bool] = True

    model: Model = Model()
    train: Train = Train()

    def known_metrics(self) -> dict[str, tuple[str, ...]]:
        return super().known_metrics() | {"fidelity": ("repeats",)}

    @model_validator(mode="after")
    def _kernels(self) -> "Config":
        size = self.model.fill().options.get("size", 3) if self.model.downsample == LAYER else 3
        if size % 2 == 0 and self.train.epochs:
            raise ValueError(
                f"MODEL.FILTER_SIZE must be odd in training, got {size}: an even one changes the size of maps"
            )
        return self
