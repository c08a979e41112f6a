"""The chart of an explanation: each module's equivariance error, and its share of the total."""

from collections.abc import Sequence
from pathlib import Path

from stillpoint.core.evaluation.explain import Explanation
from stillpoint.core.reporting.figures import entitle, save, styled, subplots

#: at most so many modules are named, those with the largest shares
NAMED = 12


@styled
def explanation_chart(found: Explanation, path: Path, *, title: str) -> Path:
    """Draws all modules' errors in the order of execution (above, logarithmic), and the largest shares (below)."""
    rows = [row for row in found.rows if row.name != "(network)"]
    figure, axes = subplots(2, 1, (7.2, 5.6))
    errors, shares = axes[0, 0], axes[1, 0]
    floor = 1e-8
    errors.plot([max(row.error, floor) for row in rows], marker=".", linewidth=0.8, color="#33507a")
    errors.axhline(found.threshold, linestyle="--", linewidth=0.8, color="#777777")
    errors.set_yscale("log")
    errors.set_ylabel("relative error")
    errors.set_xlabel("module, in the order of execution")
    first = found.first_broken
    if first is not None and first in rows:
        place = rows.index(first)
        errors.axvline(place, linewidth=0.8, color="#b2372f")
        errors.annotate(f" {first.name}", (place, max(first.error, floor)), color="#b2372f", va="bottom")
    named = _largest([row.share for row in rows])
    shares.barh(range(len(named)), [100 * rows[k].share for k in named], color="#b2372f", height=0.7)
    shares.set_yticks(range(len(named)), [f"{rows[k].name} ({rows[k].type})" for k in named])
    shares.invert_yaxis()
    shares.set_xlabel("share of the error (%)")
    if not named:
        shares.text(0.5, 0.5, "every module moves with its input", transform=shares.transAxes, ha="center")
    entitle(figure, title)
    return save(figure, path)


def _largest(shares: Sequence[float]) -> list[int]:
    """Indices of the largest shares above zero, at most `NAMED`, ascending."""
    above = sorted((k for k, share in enumerate(shares) if share > 0), key=lambda k: -shares[k])[:NAMED]
    return sorted(above)
