"""The configuration of this pipeline, with the authors' keys."""

from math import isfinite
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from stillpoint.core.base.errors import nearest
from stillpoint.core.config.network import NetworkConfig
from stillpoint.core.config.schema import EvaluateConfig, RunConfig
from stillpoint.pipelines.sdnet.catalogue import NO_SHORTCUT, models

NAMES = tuple(models())


class Model(NetworkConfig):
    """MODEL: a sparse-coding network, and the problem that its layers solve."""

    name: str = Field("sdnet18", description=f"one of {', '.join(NAMES)}")
    shortcut: bool = Field(True, description="residual connections of the *_all networks; the others always have them")
    num_layers: int = Field(2, ge=1, description="iterations of every sparse-coding layer (T)")
    scheme: str = Field(
        "sdnet",
        pattern="^(sdnet|fista|ista)$",
        description="the point at which the gradient is taken, different from T = 3 on",
    )
    lambda_: tuple[float, ...] = Field(
        (0.1,),
        alias="LAMBDA",
        description="weight of |z|_1: one for all sparse-coding layers, or one for each in order",
    )
    adaptivelambda: bool = Field(
        False, description="scale lambda by a layer's number of inputs over its number of outputs"
    )
    mu: float = Field(0.0, ge=0, description="weight of |z|^2 / 2")
    nonegative: bool = Field(True, description="codes of at least 0")
    expansion_factor: int = Field(1, ge=1, description="how often the input of a layer is repeated along its channels")
    wnorm: bool = Field(True, description="dictionaries of unit-norm atoms")
    pooling: bool = Field(False, description="*_all: 2x2 max-pool after a layer of stride 1 where a block has stride 2")
    square_noise: bool = Field(True, description="squared data term; False: its norm")
    recompute: bool = Field(
        False, description="store no inner iterations for the backward pass; costs a second forward pass"
    )

    @field_validator("lambda_", mode="before")
    @classmethod
    def _one_number_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @model_validator(mode="before")
    @classmethod
    def _called_by_one_name(cls, given: Any) -> Any:
        # the authors' "all" with SHORTCUT False gets another name, so that its results are not mistaken for the other's
        if isinstance(given, dict):
            keys = {key.lower(): key for key in given}
            name = str(given.get(keys.get("name", ""), ""))
            if name.endswith("_all") and given.get(keys.get("shortcut", "")) is False:
                return given | {keys["name"]: name + NO_SHORTCUT}
        return given

    @model_validator(mode="after")
    def _possible(self) -> "Model":
        if self.name not in NAMES:
            raise ValueError(
                f"unknown MODEL.NAME {self.name!r}{nearest(self.name, list(NAMES))}; choose from {', '.join(NAMES)}"
            )
        if self.name.endswith(NO_SHORTCUT) and self.shortcut:
            raise ValueError(
                f"MODEL.NAME {self.name} means MODEL.SHORTCUT False; with shortcuts it is {self.architecture}"
            )
        if min(self.lambda_, default=0) < 0:
            raise ValueError(f"MODEL.LAMBDA must have values of at least 0, not {list(self.lambda_)}")
        if not all(isfinite(value) for value in (*self.lambda_, self.mu)):
            raise ValueError(f"MODEL.LAMBDA {list(self.lambda_)} and MODEL.MU {self.mu} must be finite numbers")
        if not self.lambda_:
            raise ValueError("MODEL.LAMBDA must have one value, or one for each sparse-coding layer, not none")
        if self.pooling and not self.dense:
            raise ValueError(
                f"MODEL.POOLING is for the *_all networks; {self.name} has no strided sparse-coding layer in its blocks"
            )
        if self.pooling and self.downsample != "none":
            raise ValueError(
                f"MODEL.POOLING and MODEL.DOWNSAMPLE {self.downsample} replace the same strides: choose one of them"
            )
        return self

    @property
    def architecture(self) -> str:
        """The authors' name of the network."""
        return self.name.removesuffix(NO_SHORTCUT)

    @property
    def dense(self) -> bool:
        """Whether the blocks consist of sparse-coding layers."""
        return self.architecture.endswith("_all")


class Evaluate(EvaluateConfig):
    """EVALUATE: settings of robust inference and attacks; defaults are the authors' if their code states them."""

    lambdas: tuple[float, ...] = Field(
        tuple(round(0.1 * k, 1) for k in range(1, 15)),
        description="values of the first layer's lambda to choose from, ascending",
    )
    noise_levels: int = Field(
        10,
        ge=2,
        description="at most this many of the authors' levels of each noise, evenly from lowest to highest",
    )
    limit_sweep: int | None = Field(
        1000, ge=1, description="evenly spaced images on which lambda is chosen, and on which it is tried; none: all"
    )
    limit_corruptions: int | None = Field(
        None, ge=1, description="corrupt only this many images, evenly spaced; none: all"
    )
    limit_attack: int | None = Field(1000, ge=1, description="attack only this many images, evenly spaced; none: all")
    attack_steps: int = Field(20, ge=1, description="steps of projected gradient descent")
    attack_linf: float = Field(8.0, ge=0, description="largest change of a pixel, in 255ths")
    attack_l2: float = Field(0.5, ge=0, description="Euclidean norm of a change, with pixels in [0, 1]")
    attack_lambdas: tuple[float, ...] = Field(
        (0.5, 1.0), description="further values of the first layer's lambda for attack and defence"
    )
    pictures: int = Field(8, ge=1, description="images, evenly spaced, whose reconstructions are stored")
    tensorboard: bool = Field(
        False, description="write the reconstructions for TensorBoard too, to the run's folder (needs that package)"
    )

    @model_validator(mode="after")
    def _possible(self) -> "Evaluate":
        for name, values in (("LAMBDAS", self.lambdas), ("ATTACK_LAMBDAS", self.attack_lambdas)):
            if min(values, default=0) < 0:
                raise ValueError(f"EVALUATE.{name} must have values of at least 0, not {list(values)}")
            if not all(isfinite(value) for value in values):
                raise ValueError(f"EVALUATE.{name} must have finite values, not {list(values)}")
        if list(self.lambdas) != sorted(set(self.lambdas)) or len(self.lambdas) < 2:
            raise ValueError(f"EVALUATE.LAMBDAS must be at least two increasing values, not {list(self.lambdas)}")
        return self


class Config(RunConfig):
    """A run of the sdnet pipeline."""

    LOGITS: ClassVar[bool] = True
    # keys of the authors' configuration that have no effect in their code, or another name here
    REFUSED: ClassVar[dict[str, str]] = {
        "MODEL.PAD_MODE": "the authors' code checks it and never uses it: padding is always zeros",
        "MODEL.DICTLOSS": "no network of the authors passes its dictionary loss to training",
        "MODEL.RCLOSS_FACTOR": "no network of the authors passes its reconstruction loss to training",
        "MODEL.STEP_SIZE": "the step size is always 0.9 / lambda_max",
        "MODEL.ARCH": "the authors' code never reads it; the network is MODEL.NAME",
        "MODEL.NUM_CLASSES": "the data set decides it (DATA.NAME)",
        "MODEL.IMAGE_SIZE": "the data set decides it (DATA.NAME, DATA.IMAGE_SIZE)",
        "DATASET.DATA_FORMAT": "the authors' code never reads it",
        "DATASET.NOISE_LEVEL": "the authors' code never reads it",
        "TEST.MODEL_FILE": "the authors' code never reads it",
        "VIZ": "the authors' code never reads it",
        "VIZ_INPUTNORM": "reconstructions are always shown in pixels, their normalisation undone",
        "VIZ_TRAINSET": "reconstructions are of test images",
        "DATASET.ROOT": "it is --data on the command line, or the variable STILLPOINT_DATA",
        "DATASET.TRAIN_SET": "ImageNet's folders are always train and val",
        "DATASET.TEST_SET": "ImageNet's folders are always train and val",
        "DATASET.NOISE": "all four noises are measured (EVALUATE.METRICS [robustness])",
        "WORKERS": "it is --workers on the command line",
        "PRINT_FREQ": "a line is printed for each epoch",
        "TRAIN.END_EPOCH": "it is TRAIN.EPOCHS",
        "TRAIN.BEGIN_EPOCH": "a run continues where it stopped",
        "TRAIN.RESUME": "a run continues where it stopped",
        "TRAIN.MODEL_FILE": "it is TRAIN.FINETUNE, which takes the authors' files too",
        "TRAIN.WD": "it is TRAIN.WEIGHT_DECAY; their adam has none (TRAIN.OPTIMIZER adam TRAIN.WEIGHT_DECAY 0)",
        "TRAIN.LR_FACTOR": "it is TRAIN.GAMMA",
        "TRAIN.LR_STEP": "it is TRAIN.MILESTONES",
        "TRAIN.LR_SCHEDULER": "it is TRAIN.SCHEDULE",
        "TEST.BATCH_SIZE": "it is EVALUATE.BATCH_SIZE",
        "DATASET.DATASET": "it is DATA.NAME",
        "LOG_DIR": "a run's folder follows from its pipeline, data set, network and seed",
    }

    model: Model = Model()
    evaluate: Evaluate = Evaluate()

    def known_metrics(self) -> dict[str, tuple[str, ...]]:
        radii = ("limit_attack", "attack_linf", "attack_l2")
        return super().known_metrics() | {
            "robustness": ("lambdas", "noise_levels", "limit_sweep", "limit_corruptions"),
            "attack": (*radii, "attack_steps", "attack_lambdas"),
            "autoattack": radii,
            "reconstructions": ("pictures", "tensorboard"),
        }

    def known_protocols(self) -> tuple[str, ...]:
        return ("stillpoint", "authors")

    @model_validator(mode="after")
    def _honest(self) -> "Config":
        if self.data.validation_choice == "test" and self.evaluate.protocol != "authors":
            raise ValueError(
                "DATA.VALIDATION_CHOICE test chooses epochs on the test set: it needs EVALUATE.PROTOCOL authors"
            )
        return self
