"""The report of what a surgery did, or would do."""

from dataclasses import dataclass, field

SMALL_MAPS = "filters repeat the edge of maps too small to be mirrored, those no larger than half of their taps"


@dataclass(frozen=True)
class Change:
    """The module called `name` before and after, in words."""

    name: str
    before: str
    after: str


@dataclass
class Report:
    """What was changed, in the order of execution, and what still strides, with the reason; `str` is for reading.

    changes    each treated layer, before and after
    left       (name, reason): a layer, or the module in whose forward a function or a slice strides
    untraced   (name, reason) of modules whose own forward could not be traced: each layer in them was treated by
               itself, but functions that stride in the forward are not seen
    notes      remarks on the whole network
    """

    changes: list[Change] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    untraced: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{c.name}: {c.before} -> {c.after}" for c in self.changes]
        lines += [f"{name}: left as it is ({reason})" for name, reason in self.left]
        lines = lines or ["nothing strides without a filter: nothing was changed"]
        lines += [f"{name or 'the network'}: its forward was not traced ({why})" for name, why in self.untraced]
        return "\n".join(lines + self.notes)
