"""The part of the MODEL section that all papers share: what fills the slots, and the width.

A setting that is not given keeps the filling's default. Options of several fillings are keys; an option of a single
filling, or for a single place, is an item of MODEL.FILLING.
"""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from stillpoint.core.base.documents import parse_yaml
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.lookup import check_name
from stillpoint.core.config.former import SPELLINGS
from stillpoint.core.config.schema import ModelConfig
from stillpoint.core.config.slot import ACTIVATIONS, FILLINGS, NORMS

Padding = Literal["reflect", "replicate", "zeros", "circular"]


@dataclass(frozen=True)
class Fill:
    """What fills one place: its kind ("none" for a plain stride) and the given options."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)


class NetworkConfig(ModelConfig):
    """MODEL: what fills the slots of a network, and its width; papers add their own options."""

    #: key of the section -> option of a filling
    OPTIONS: ClassVar[dict[str, str]] = {
        "filter_size": "size",
        "filter_padding": "padding",
        "criterion": "criterion",
        "select": "select",
        "groups": "groups",
        "normalise": "normalise",
    }
    #: values of DOWNSAMPLE that name no filling
    UNFILLED: ClassVar[tuple[str, ...]] = ("none",)

    downsample: str = Field(
        "none",
        description=f"what replaces each stride of the network: {', '.join(FILLINGS)}, or your own MODULE:CLASS; "
        "none: keep the strides",
    )
    filter_size: int | None = Field(
        None,
        ge=1,
        le=7,
        description="filter taps along an axis; none: the filling's default (blur 4, adaptive_blur 3, polyphase 1)",
    )
    filter_padding: Padding | None = Field(
        None, description="padding of the filter; none: the filling's default (polyphase circular, the others reflect)"
    )
    criterion: Literal["l2", "l1", "l_infty", "max", "l2_min", "l1_min"] | None = Field(
        None,
        description="what polyphase maximises (or minimises) over the phases; none: l2; after a blur, l1 and l1_min "
        "tie and rounding chooses",
    )
    select: Literal["before_blur", "after_blur"] | None = Field(
        None, description="the map whose phases are compared; none: the filling's default (polyphase before_blur)"
    )
    groups: int | None = Field(
        None, ge=1, description="groups of channels that share a predicted filter (adaptive_blur); none: 8"
    )
    normalise: Literal["joint", "group"] | None = Field(
        None, description="softmax of predicted filters over all groups together, as published (none), or within each"
    )
    filling: tuple[str, ...] = Field(
        (),
        description="further options of the filling as OPTION=VALUE, or for one place as PLACE:OPTION=VALUE, where "
        "PLACE is a shell pattern for the slot's path in the network; `downsample` is an option too",
    )
    activation: str | None = Field(
        None,
        description=f"{', '.join(ACTIVATIONS)}, or your own MODULE:NAME, called with the channels; none: the "
        "network's own",
    )
    norm: str | None = Field(
        None,
        description=f"{', '.join(NORMS)}, or your own MODULE:NAME, called with the channels; none: the network's own",
    )
    width: float = Field(1.0, gt=0, le=2, description="multiplier of all channels")

    @field_validator("downsample", "criterion", mode="before")
    @classmethod
    def _spelling(cls, value: Any, info: Any) -> Any:
        new = SPELLINGS[info.field_name.upper()].get(value) if isinstance(value, str) else None
        if new is not None:
            raise ValueError(f"MODEL.{info.field_name.upper()} {value} is now spelt {new}")
        return value

    @field_validator("downsample", "activation", "norm")
    @classmethod
    def _known(cls, value: str | None, info: Any) -> str | None:
        tables = {"activation": ACTIVATIONS, "norm": NORMS}
        known = tables.get(info.field_name) or dict.fromkeys((*cls.UNFILLED, *FILLINGS))
        return value if value is None else check_name(f"MODEL.{info.field_name.upper()}", value, known)

    @field_validator("width", mode="before")
    @classmethod
    def _multiplier(cls, value: Any) -> Any:
        if isinstance(value, int | float) and value > 2:
            raise ValueError("it is a multiplier of at most 2, not a number of channels")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "NetworkConfig":
        if self.downsample in self.UNFILLED:
            # a recipe states one padding for all its networks, plain ones included
            own = [name for name in (*self.OPTIONS, "filling") if name != "filter_padding"]
            given = [name for name in own if getattr(self, name) not in (None, ())]
            if given:
                raise ValueError(
                    f"MODEL.{given[0].upper()} {_shown(getattr(self, given[0]))} changes nothing with "
                    f"MODEL.DOWNSAMPLE {self.downsample}: it is an option of fillings"
                )
            return self
        for name, option in self.OPTIONS.items():
            value = getattr(self, name)
            if value is not None and self.downsample in FILLINGS and option not in FILLINGS[self.downsample].options:
                whose = ", ".join(kind for kind, entry in FILLINGS.items() if option in entry.options)
                raise ValueError(
                    f"MODEL.{name.upper()} {value} changes nothing with MODEL.DOWNSAMPLE {self.downsample}: it is an "
                    f"option of {whose}"
                )
        if self.downsample == "adaptive_blur" and self.filter_size is not None and self.filter_size % 2 == 0:
            raise ValueError(f"MODEL.DOWNSAMPLE adaptive_blur needs an odd MODEL.FILTER_SIZE, not {self.filter_size}")
        for item in self.filling:
            self.fill(_parsed(item)[0])
        return self

    def places(self) -> list[str]:
        """The place patterns in MODEL.FILLING, the most specific (longest) first."""
        found = dict.fromkeys(pattern for pattern, _, _ in map(_parsed, self.filling) if pattern != "*")
        return sorted(found, key=len, reverse=True)

    def fill(self, place: str = "", **defaults: Any) -> Fill:
        """What fills the slot at a path of the network; `defaults` are a paper's options, used where the section sets
        none and the filling has them. ValueError for a wrong item of MODEL.FILLING."""
        kind, options = self.downsample, {}
        for name, option in self.OPTIONS.items():
            if getattr(self, name) is not None:
                options[option] = getattr(self, name)
        for item in self.filling:
            pattern, key, value = _parsed(item)
            if not fnmatchcase(place, pattern) and place != pattern:
                continue
            if key == "downsample":
                # the general options belong to the general kind
                kind, options = check_name(f"MODEL.FILLING {item}: downsample", str(value), FILLINGS), {}
            elif kind in FILLINGS and key not in FILLINGS[kind].options:
                allowed = ", ".join(FILLINGS[kind].options) or "no options"
                raise ValueError(f"MODEL.FILLING {item}: {kind} has {allowed}, not {key}")
            else:
                options[key] = value
        if kind in FILLINGS:
            options = {**{k: v for k, v in defaults.items() if k in FILLINGS[kind].options}, **options}
        return Fill(kind, options)

    def scaled(self, channels: int) -> int:
        """`channels` times MODEL.WIDTH, at least 1."""
        return max(1, round(channels * self.width))


def _parsed(item: str) -> tuple[str, str, Any]:
    """(pattern, option, value) of an item of MODEL.FILLING."""
    left, equals, text = item.partition("=")
    place, colon, option = left.rpartition(":")
    if not equals or not option.isidentifier() or not text:
        raise ValueError(f"items of MODEL.FILLING must be OPTION=VALUE or PLACE:OPTION=VALUE, not {item!r}")
    try:
        value = parse_yaml(text, "an item of MODEL.FILLING")
    except UserError:
        value = text
    return place if colon else "*", option, value


def _shown(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value)
