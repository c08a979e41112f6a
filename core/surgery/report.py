"""What a surgery did, or would do: a table in words."""

from dataclasses import dataclass, field

SMALL_MAPS = "filters repeat the edge of maps too small to be mirrored, those no larger than half of their taps"


@dataclass(frozen=True)
class Change:
    """What was done to the module called `name`."""

    name: str
    before: str
    after: str


@dataclass
class Report:
    """What was changed, in the order of execution, and what still strides with the reason it was left.

    changes    each layer that strode, and what it is now
    left       (name, reason): a layer, or the module in whose forward a function or a slice strides
    untraced   (name, reason) of modules whose own forward could not be followed: their layers were treated, each by
               itself, but what strides in the forward without a layer is not seen
    notes      what holds for all of it
    """

    changes: list[Change] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    untraced: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{c.name}: {c.before} -> {c.after}" for c in self.changes]
        lines += [f"{name}: left as it is ({reason})" for name, reason in self.left]
        lines = lines or ["nothing strides without a filter: nothing was changed"]
        lines += [f"{name or 'the network'}: its forward was not followed ({why})" for name, why in self.untraced]
        return "\n".join(lines + self.notes)
