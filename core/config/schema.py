"""The configuration of a run: one frozen, typed value.

Keys are in capitals (``TRAIN.BATCH_SIZE``), attributes in small letters (``config.train.batch_size``). pydantic
validates and freezes the configuration here; `core.config.merge` assembles it. Each pipeline derives its own schema
from `RunConfig` with its own type of `model`.
"""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from stillpoint.core.base.errors import UserError, nearest
from stillpoint.core.base.files import digest_of
from stillpoint.core.config import evaluations
from stillpoint.core.config.catalogue import DATASETS
from stillpoint.core.config.former import modern

Fraction = Annotated[float, Field(ge=0, le=1)]
Divisor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


#: floats represent every integer up to this one; sensible settings are far below
LARGEST = 2**53


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=str.upper,
        populate_by_name=True,
        validate_default=True,
        # infinite rates are meaningless, and NaN passes every bound
        allow_inf_nan=False,
        # a field called `model` is natural here; pydantic otherwise reserves the prefix
        protected_namespaces=(),
    )

    @model_validator(mode="after")
    def _countable(self) -> "Section":
        for name, value in self:
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and abs(number) > LARGEST:
                    raise ValueError(f"{name.upper()} must be at most {LARGEST:,} in absolute value")
        return self


class ModelConfig(Section):
    """The options of every pipeline's networks; a pipeline adds those of its paper."""

    name: str = Field("", description="the paper's own name for the network, as `stillpoint list` shows it")


class DataConfig(Section):
    """Which images, and how they are split and normalised."""

    name: str = Field("digits", description="a data set of the registry")
    validation: int = Field(
        0, ge=0, description="images held out of the training set; 0: none, and the last epoch is kept"
    )
    validation_choice: Literal["shuffled", "first", "test"] = Field(
        "shuffled",
        description="which training images are held out; test: none, and epochs are selected on the first VALIDATION "
        "test images, as some papers did (optimistic)",
    )
    split_seed: int = Field(0, ge=0, description="seed of the NumPy shuffle that makes the split")
    mean: tuple[FiniteFloat, ...] | None = Field(
        None, description="per channel, of images in [0, 1]; none: the data set's own"
    )
    std: tuple[Divisor, ...] | None = Field(
        None, description="per channel, of images in [0, 1]; none: the data set's own"
    )
    image_size: int | None = Field(
        None, gt=0, description="height and width that a network sees; none: the data set's own"
    )
    limit: int | None = Field(
        None,
        gt=0,
        description="use at most this many images of each split: the first ones, or evenly spaced ones if it is sorted "
        "by class",
    )
    skip_corrupt: bool = Field(False, description="skip unreadable images instead of stopping at the first one")

    @model_validator(mode="after")
    def _known(self) -> "DataConfig":
        if self.name not in DATASETS:
            raise ValueError(f"unknown data set {self.name!r}: choose from {', '.join(DATASETS)}")
        channels = DATASETS[self.name].channels
        for key, values in (("MEAN", self.mean), ("STD", self.std)):
            if values is not None and len(values) != channels:
                raise ValueError(f"DATA.{key} has {len(values)} values, but {self.name} has channels: {channels}")
        return self


class AugmentConfig(Section):
    """Random changes of training images, applied in the order of the fields; 0 or none turns one off."""

    resize: int | None = Field(None, gt=0, description="shorter side after resizing, before a centre crop (ImageNet)")
    resized_crop: tuple[float, float] | None = Field(
        None, description="range of area of a RandomResizedCrop, for example [0.08, 1]"
    )
    scale: tuple[Divisor, Divisor] | None = Field(
        None,
        description="photographs, for segmentation: range of a random factor of both sides, for example [0.5, 2], "
        "before a random window that is padded if the image is smaller",
    )
    canvas_padding: int = Field(
        0,
        ge=0,
        le=1024,
        description="zero pixels around an image before a random crop of DATA.IMAGE_SIZE, in testing too",
    )
    crop_padding: int = Field(
        0, ge=0, le=1024, description="zero pixels around an image before a random crop of its own size"
    )
    flip: Fraction = Field(0.0, description="probability of a horizontal flip")
    flip_turns: bool = Field(
        False, description="draw FLIP once for each image, and then flip the image in every second epoch"
    )
    roll: int = Field(
        0, ge=0, description="circular shift, each axis uniform in -ROLL..ROLL-1 (half-open, as the papers draw it)"
    )
    roll_per: Literal["image", "batch"] = Field(
        "image", description="one shift for each image, or one for a whole batch"
    )
    erase: int = Field(0, ge=0, description="side of a random square set to zero after normalisation")

    @model_validator(mode="after")
    def _one_window(self) -> "AugmentConfig":
        if self.scale and self.resized_crop:
            raise ValueError("AUGMENT.SCALE and AUGMENT.RESIZED_CROP each choose the window: set only one of them")
        if self.scale and self.scale[0] > self.scale[1]:
            raise ValueError(f"AUGMENT.SCALE must go from the smaller factor to the larger, not {list(self.scale)}")
        if self.flip_turns and not self.flip:
            raise ValueError("AUGMENT.FLIP_TURNS alternates flips that AUGMENT.FLIP begins: set it, for example to 0.5")
        return self


class TrainConfig(Section):
    """How a network is optimised."""

    epochs: int = Field(10, ge=0)
    batch_size: int = Field(
        256, ge=1, description="images per optimiser step, over all processes and ACCUMULATE mini-batches"
    )
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    lr_min: float = Field(0.0, ge=0, description="the rate at which cosine and linear end; poly's smallest")
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0)
    decay: Literal["all", "matrices"] = Field(
        "all", description="which parameters are decayed: all, or matrices and kernels only (no bias, scale or norm)"
    )
    loss: Literal["cross_entropy", "nll", "mse"] = "cross_entropy"
    clamp: float | None = Field(None, gt=0, description="loss mse: outputs are first clamped to -CLAMP..CLAMP")
    label_smoothing: Fraction = 0.0
    focal_gamma: float = Field(
        0.0, ge=0, description="loss cross_entropy: times (1 - p) ** FOCAL_GAMMA, p being the label's probability"
    )
    pixels: Literal["labelled", "all"] = Field(
        "labelled",
        description="label maps: an image's loss is the mean over the pixels with a class, or over all pixels, those "
        "without a class counting as zero",
    )
    schedule: Literal["constant", "step", "multistep", "cosine", "linear", "poly", "one_cycle"] = "step"
    schedule_per: Literal["epoch", "step"] = "epoch"
    step_epochs: int = Field(100, ge=1, description="epochs between two decays of the step schedule")
    milestones: tuple[int, ...] = Field((), description="epochs at which the multistep schedule decays")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of one decay")
    poly_power: float = Field(0.9, gt=0, description="poly: LR times (1 - part of the run done) ** POLY_POWER")
    cosine_offset: int = Field(
        0, ge=0, le=1, description="1: epoch e uses the cosine of e + 1, so that the last epoch has rate 0"
    )
    warmup_epochs: float = Field(0.0, ge=0, description="linear rise of the rate per step, from 1/steps to 1")
    warmup: Literal["times", "before"] = Field(
        "times",
        description="times: the rise multiplies the schedule's rate; before: it goes from 0 to LR, both ends included, "
        "and a cosine or linear schedule per step begins after it",
    )
    bias_rate: Divisor = Field(
        1.0, description="factor of the learning rate of norms' biases, whose WEIGHT_DECAY is divided by it"
    )
    whiten: int = Field(
        0,
        ge=0,
        description="number of training images on whose patches a network with a whitening layer fits that layer, "
        "which is then frozen; 0: none",
    )
    sides: tuple[PositiveInt, ...] = Field(
        (), description="sides to which training images are shrunk, in equal parts of the epochs; none: no shrinking"
    )
    accumulate: int = Field(1, ge=1, description="mini-batches per optimiser step; their losses are averaged")
    accumulate_like_authors: bool = Field(False, description="sum the losses of accumulated mini-batches instead")
    clip_norm: float | None = Field(None, gt=0)
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: autocast; parameters stay float32"
    )
    channels_last: bool = True
    compile: bool = Field(False, description="torch.compile the network")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per step of an exponential moving average of the weights, which is validated, tested and "
        "kept instead of them; 0: none",
    )
    keep: Literal["best", "last"] = Field(
        "last", description="which epoch's weights are kept; best needs DATA.VALIDATION"
    )
    checkpoint_epochs: int = Field(1, ge=1, description="epochs between checkpoints from which a run can resume")
    snapshots: int = Field(0, ge=0, description="keep the weights every this many epochs; 0: none")
    test_each_epoch: bool = Field(
        False,
        description="also measure the test images before training and after each epoch (selects nothing)",
    )
    finetune: str | None = Field(None, description="file of weights to start from")
    finetune_head: Literal["same", "new"] = Field(
        "same", description="new: reinitialise the last layer, so that FINETUNE may have other classes"
    )

    @property
    def open_ended(self) -> bool:
        """Whether adding epochs leaves the learning rates of the earlier ones, and their images, unchanged."""
        return self.schedule in ("constant", "step", "multistep") and not self.sides

    @model_validator(mode="after")
    def _begins(self) -> "TrainConfig":
        if self.finetune_head == "new" and self.finetune is None:
            raise ValueError("TRAIN.FINETUNE_HEAD new needs weights to start from: set TRAIN.FINETUNE to their file")
        return self


class EvaluateConfig(Section):
    """What is measured, and by which protocol."""

    batch_size: int = Field(250, ge=1)
    protocol: Literal["stillpoint", "authors"] = Field(
        "stillpoint", description="stillpoint: draws from (seed, image, repeat); authors: repeats the paper's code"
    )
    metrics: tuple[str, ...] = Field(
        evaluations.EVERYWHERE,
        description="names of evaluations, in this order; ... stands for the default ones",
    )
    max_shift: int = Field(
        3,
        ge=1,
        description="circular and crop shifts are drawn from -MAX_SHIFT..MAX_SHIFT-1, those of label maps from "
        "-MAX_SHIFT..MAX_SHIFT",
    )
    repeats: int = Field(5, ge=1, description="pairs of shifts drawn for each image")
    margin: int = Field(
        0, ge=0, description="pixels by which test photographs exceed DATA.IMAGE_SIZE, for the evaluation windows"
    )
    limit_all_shifts: int = Field(
        100,
        ge=1,
        description="images on which every circular shift is tried: the first ones, or evenly spaced ones if they are "
        "sorted by class",
    )
    worst_shift: int = Field(4, ge=1, description="largest shift on each axis, in pixels, in the search for the worst")
    limit_dear: int = Field(
        1000,
        ge=1,
        description="images on which the worst shift and corruptions are tried, chosen as for LIMIT_ALL_SHIFTS",
    )
    erase: tuple[PositiveInt, ...] = Field((), description="sides of erased squares")
    fractions: int = Field(8, ge=2, description="sub-pixel shifts are multiples of 1/FRACTIONS of a pixel")
    untrained: bool = Field(True, description="measure the network before training as well")

    @field_validator("metrics", mode="before")
    @classmethod
    def _with_those_of_every_table(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        found: list[Any] = []
        for name in value:
            rest = [other for other in evaluations.EVERYWHERE if other not in value]
            found += rest if name in ("...", ...) else [name]
        return found


#: fields of EVALUATE that act on every evaluation
ALWAYS_READ = ("batch_size", "protocol", "metrics", "untrained")


class RunConfig(Section):
    """Everything that decides the result of a run, and nothing else: no device, threads or folders."""

    #: keys that users of a paper's own code may try, and what to set instead
    REFUSED: ClassVar[dict[str, str]] = {}
    #: the networks return logits, which TRAIN.LOSS nll would misread as log-probabilities
    LOGITS: ClassVar[bool] = False

    pipeline: str = ""
    recipe: str = Field("", description="the yaml this came from: the data set's name, or <dataset>_<variant>")
    title: str = Field("", description="a note in every table of this recipe, for example 'short recipe: 5 epochs'")
    grid: tuple[str, ...] = Field((), description="the networks of this recipe's table")
    seeds: int = Field(3, ge=1, description="number of seeds that a workflow runs for each network by default")
    seed: int = Field(0, ge=0)
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    def known_metrics(self) -> dict[str, tuple[str, ...]]:
        """The evaluations that EVALUATE.METRICS may name, each with the fields of EVALUATE that it reads."""
        of_maps = evaluations.reads("label_maps") if DATASETS[self.data.name].label_maps else {}
        return evaluations.reads() | of_maps

    def check_effect(self, keys: Iterable[str]) -> None:
        """`UserError` for a key of EVALUATE that no evaluation in EVALUATE.METRICS reads."""
        known = self.known_metrics()
        for key in keys:
            section, _, name = key.lower().partition(".")
            if section != "evaluate" or name not in type(self.evaluate).model_fields or name in ALWAYS_READ:
                continue
            readers = [metric for metric, reads in known.items() if name in reads]
            if not set(readers) & set(self.evaluate.metrics):
                none = f"{self.pipeline} has no evaluation that reads it"
                by = f"only {', '.join(readers)} would read it" if readers else none
                shown = ", ".join(self.evaluate.metrics)
                raise UserError(f"{key} changes nothing of what EVALUATE.METRICS [{shown}] measures: {by}")

    def known_protocols(self) -> tuple[str, ...]:
        """The values of EVALUATE.PROTOCOL, to which a paper whose authors measured differently adds "authors"."""
        return ("stillpoint",)

    @model_validator(mode="after")
    def _measurable(self) -> "RunConfig":
        known = self.known_metrics()
        if self.evaluate.protocol not in self.known_protocols():
            raise ValueError(
                f"EVALUATE.PROTOCOL {self.evaluate.protocol}: {self.pipeline or 'this pipeline'} has only one "
                f"protocol (EVALUATE.PROTOCOL {self.known_protocols()[0]})"
            )
        for name in self.evaluate.metrics:
            if name not in known:
                raise ValueError(
                    f"EVALUATE.METRICS: unknown evaluation {name!r}{nearest(name, list(known))}; "
                    f"choose from {', '.join(known)}"
                )
        if "erase" in self.evaluate.metrics and not self.evaluate.erase:
            raise ValueError(
                "EVALUATE.METRICS: the evaluation erase needs the sides of its squares in pixels: set EVALUATE.ERASE"
            )
        return self

    @model_validator(mode="after")
    def _possible(self) -> "RunConfig":
        if self.train.keep == "best" and self.data.validation == 0 and self.train.epochs > 0:
            raise ValueError("TRAIN.KEEP best needs validation images: set DATA.VALIDATION, or TRAIN.KEEP last")
        if self.train.loss == "nll" and self.LOGITS:
            raise ValueError(
                f"TRAIN.LOSS nll takes log-probabilities, but networks of {self.pipeline or 'this pipeline'} return "
                "logits: use TRAIN.LOSS cross_entropy"
            )
        of_maps = DATASETS[self.data.name].label_maps
        if self.train.pixels == "all" and not of_maps:
            raise ValueError(f"TRAIN.PIXELS all needs label maps, but {self.data.name} has one class for each image")
        if of_maps and self.train.loss != "cross_entropy":
            raise ValueError(
                f"TRAIN.LOSS {self.train.loss} does not support the label maps of {self.data.name}: set cross_entropy"
            )
        if self.train.focal_gamma and self.train.loss != "cross_entropy":
            raise ValueError(f"TRAIN.FOCAL_GAMMA needs TRAIN.LOSS cross_entropy, not {self.train.loss}")
        if self.train.sides and (of_maps or DATASETS[self.data.name].pairs):
            raise ValueError(f"TRAIN.SIDES cannot shrink the targets of {self.data.name}, one for each pixel")
        size = self.data.image_size or DATASETS[self.data.name].size
        if self.train.sides and max(self.train.sides) > size:
            raise ValueError(f"TRAIN.SIDES {list(self.train.sides)} must be at most the images' side, {size} pixels")
        if self.train.accumulate > 1 and self.train.batch_size % self.train.accumulate:
            raise ValueError(
                f"TRAIN.ACCUMULATE {self.train.accumulate} does not divide TRAIN.BATCH_SIZE {self.train.batch_size}"
            )
        return self

    def dump(self) -> dict[str, Any]:
        """The settings with keys in capitals, as plain lists, numbers and strings."""
        return self.model_dump(mode="json", by_alias=True)

    def digest(self) -> str:
        """SHA-256 of the settings that decide the trained weights: all except GRID, SEEDS, TITLE and EVALUATE.

        Only values that differ from the defaults count, so that a new setting with a default changes no digest.
        """
        return digest_of(beside(deciding(self.dump()), deciding(type(self)().dump())))


#: Keys that decide how results are measured and shown, not the trained weights.
UNDECIDING = ("EVALUATE", "GRID", "SEEDS", "TITLE")

AnySection = TypeVar("AnySection", bound=Section)


def validate(schema: type[AnySection], settings: dict[str, Any]) -> AnySection:
    """`settings` as a frozen configuration; `UserError` that names the first wrong key."""
    try:
        return schema.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        kind = {"int": "a whole number", "float": "a number", "bool": "True or False"}.get(first["type"].split("_")[0])
        reason = f"must be {kind}" if kind else first["msg"].removeprefix("Value error, ")
        given = repr(first["input"])
        given = given if len(given) <= 100 else f"{given[:97]}..."
        # a key or value that the reason names is not repeated
        quoted = isinstance(first["input"], str) and given in reason
        shown = "" if isinstance(first["input"], dict) or not where or quoted else f" (given: {given})"
        named = f"{where}: " if where and not reason.startswith(where) else ""
        raise UserError(f"{named}{reason}{shown}") from None


def known_keys(schema: type[RunConfig]) -> list[str]:
    """All keys of a schema, dotted: ``["PIPELINE", ..., "TRAIN.LR", ...]``."""
    return _leaves(schema().dump())


def _leaves(settings: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in settings.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """``["TRAIN.LR: 0.1 -> 0.05", ...]`` for two dumped configurations."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{key}.{line}" for line in differences(a, b)]
        elif a != b:
            found.append(f"{key}: {a} -> {b}")
    return found


def shared(settings: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """`settings` restricted to `keys`, such as those that existed when a run was made."""
    return {
        key: shared(value, keys[key]) if isinstance(value, dict) and isinstance(keys[key], dict) else value
        for key, value in settings.items()
        if key in keys
    }


def changed(stored: dict[str, Any], config: RunConfig) -> list[str]:
    """The settings of `config` that decide a training and differ from the `stored` ones, as ``KEY: stored -> asked``.

    A setting that `stored` lacks counts as its default.
    """
    return differences(_filled(deciding(modern(stored)), deciding(type(config)().dump())), deciding(config.dump()))


def _filled(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`settings`, completed by `defaults`."""
    inner = {key: value for key, value in settings.items() if isinstance(value, dict)}
    return {
        **defaults,
        **settings,
        **{k: _filled(v, defaults[k]) for k, v in inner.items() if isinstance(defaults.get(k), dict)},
    }


def beside(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The dumped settings that differ from `defaults`, without empty sections."""
    found = {}
    for key, value in settings.items():
        other = defaults.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if inner := beside(value, other):
                found[key] = inner
        elif key not in defaults or value != other:
            found[key] = value
    return found


def deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """The part of a dumped configuration that decides a training."""
    return {key: value for key, value in settings.items() if key not in UNDECIDING}


def json_schema(schema: type[RunConfig]) -> dict[str, Any]:
    """JSON schema of a pipeline's configuration, in the dialect of Snakemake's `validate`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema.model_json_schema(by_alias=True)}
