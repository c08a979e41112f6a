"""``python -m tests.demo``: whether the table that the demonstration has just made is that of the kept runs.

Two runs on machines of one kind give the same bytes, and ``--exact`` asks for them. Processors of other kinds add the
terms of a convolution in another order. Training enlarges that rounding until it acts like another seed. So without
``--exact`` a number may differ as seeds do: what is exact by construction, and all that is no measurement, may not.

``--seeds 1`` compares the table of the first seed alone (``stillpoint run aps --seeds 1``), which a third of the time
makes. ``stillpoint run aps`` trains in results/, whatever is kept in runs/: so both are there to be compared.
"""

import argparse
import csv
import difflib
import io
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MADE = ROOT / "results"
#: what a percentage may differ by: so many of the committed spreads, and never less than so many points
SPREADS, POINTS = 3.0, 3.0
#: the factor that a bound without a unit may differ by; one below ROUNDING is rounding, and must stay below it
FACTOR, ROUNDING = 5.0, 1e-5

NAMES = ("pipeline", "recipe", "network", "state", "metric")
GIVEN = ("unit", "n", "paper")


def rows(text: str) -> dict[tuple[str, ...], dict[str, str]]:
    """The lines of a ``table.csv`` by what they are about."""
    return {tuple(row[name] for name in NAMES): row for row in csv.DictReader(io.StringIO(text))}


def allowed(row: dict[str, str], spread: float) -> tuple[float, float]:
    """From where to where a number may lie, given the committed one's row and its spread over seeds."""
    mean = float(row["mean"])
    if row["unit"] == "":
        return (0.0, ROUNDING) if mean < ROUNDING else (mean / FACTOR, mean * FACTOR)
    if row["paper"] and mean == float(row["paper"]) and spread == 0:
        # the paper proves this number
        return mean, mean
    margin = max(SPREADS * spread, POINTS)
    return mean - margin, mean + margin


def problems(committed: str, made: str, spreads: str = "") -> list[str]:
    """One sentence for each line of the committed ``table.csv`` that the one just made does not bear out.

    `spreads`: the table of several seeds whose spreads count, where the committed one is of a single seed.
    """
    known, found, spread_of = rows(committed), rows(made), rows(spreads or committed)
    said = [f"{'/'.join(name)}: is not in the table that was made" for name in known if name not in found]
    said += [f"{'/'.join(name)}: is not in the committed table" for name in found if name not in known]
    if not said and list(known) != list(found):
        said.append("the lines stand in another order")
    for name in [name for name in known if name in found]:
        row, new = known[name], found[name]
        what = "/".join(name)
        said += [f"{what}: {key} {row[key]} committed, {new[key]} made" for key in GIVEN if row[key] != new[key]]
        low, high = allowed(row, float(spread_of[name]["spread"] or 0))
        if not low <= float(new["mean"]) <= high:
            said.append(f"{what}: {row['mean']} committed, {new['mean']} made, allowed {low:.6g} to {high:.6g}")
    return said


def differences(committed: str, made: str) -> list[str]:
    """The lines of both tables that differ, as diff shows them."""
    lines = difflib.unified_diff(committed.splitlines(), made.splitlines(), "committed", "made", lineterm="", n=0)
    return list(lines)


def committed_table(seeds: int) -> str:
    """The ``table.csv`` of the kept runs of the demonstration, seeds 0..seeds-1."""
    from stillpoint.core.reporting import tables
    from stillpoint.pipelines import networks
    from stillpoint.pipelines.gathering import gather

    return tables.to_csv(gather("aps", "digits", networks.KEPT, seeds, [], networks.KEPT).table)


def main(words: list[str] | None = None) -> int:
    form = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    form.add_argument("--results", type=Path, default=MADE, metavar="DIR", help="folder of all results")
    form.add_argument("--seeds", type=int, choices=(1, 3), default=3, help="of the demonstration that was made")
    form.add_argument("--exact", action="store_true", help="not a byte may differ")
    args = form.parse_args(words)
    path = args.results / "aps" / "digits" / "table.csv"
    if not path.is_file():
        print(f"{path} is not there: make demo makes it", file=sys.stderr)
        return 2
    several = committed_table(3)
    committed = several if args.seeds == 3 else committed_table(1)
    made = path.read_text()
    if committed == made:
        print("the demonstration's table has the bytes of the kept runs'")
        return 0
    print("\n".join(differences(committed, made)))
    said = ["not a byte may differ"] if args.exact else problems(committed, made, several)
    if said:
        print("\n".join(["", "the demonstration's table is not the committed one:", *said]))
        print("where this was meant: stillpoint release results/aps/digits --anew, stillpoint pages, and commit runs")
        return 1
    print("\nother bytes than the committed table's, and no number beyond what another processor's rounding may give")
    return 0


if __name__ == "__main__":
    sys.exit(main())
