"""``python -m tests.demo``: whether the table that the demonstration has just made is the committed one.

Two runs on machines of one kind give the same bytes, and ``--exact`` asks for them. Processors of other kinds add the
terms of a convolution in another order. Training enlarges that rounding until it acts like another seed. So without
``--exact`` a number may differ as seeds do: what is exact by construction, and all that is no measurement, may not.

``--seeds 1`` compares the table of the first seed alone (``stillpoint run aps --seeds 1``), which a third of the time
makes. ``--write`` makes what the demonstration has just given the committed tables.
"""

import argparse
import csv
import difflib
import io
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "docs" / "demo" / "aps"
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


def write(results: Path, folder: Path) -> None:
    """Leaves in `folder` the tables of the demonstration that is in `results`: of all seeds, and of the first alone."""
    from stillpoint.core.base.files import write_atomic
    from stillpoint.core.reporting import tables
    from stillpoint.pipelines.gathering import gather

    whole = gather("aps", "digits", results, None, []).table
    write_atomic(folder / "table.csv", tables.to_csv(whole))
    write_atomic(folder / "table.md", tables.to_markdown(whole))
    write_atomic(folder / "seed0.csv", tables.to_csv(gather("aps", "digits", results, 1, []).table))


def main(words: list[str] | None = None) -> int:
    form = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    form.add_argument("--results", type=Path, default=MADE, metavar="DIR", help="folder of all results")
    form.add_argument("--committed", type=Path, default=COMMITTED, metavar="DIR", help="folder of the committed tables")
    form.add_argument("--seeds", type=int, choices=(1, 3), default=3, help="of the demonstration that was made")
    form.add_argument("--exact", action="store_true", help="not a byte may differ")
    form.add_argument("--write", action="store_true", help="commit these tables instead of comparing them")
    args = form.parse_args(words)
    path = args.results / "aps" / "digits" / "table.csv"
    if not path.is_file():
        print(f"{path} is not there: make demo makes it", file=sys.stderr)
        return 2
    if args.write:
        write(args.results, args.committed)
        return 0
    several = (args.committed / "table.csv").read_text()
    committed = several if args.seeds == 3 else (args.committed / "seed0.csv").read_text()
    made = path.read_text()
    if committed == made:
        print("the demonstration's table has the committed one's bytes")
        return 0
    print("\n".join(differences(committed, made)))
    said = ["not a byte may differ"] if args.exact else problems(committed, made, several)
    if said:
        print("\n".join(["", "the demonstration's table is not the committed one:", *said]))
        print("where this was meant: make demo, python -m tests.demo --write, and commit docs/demo")
        return 1
    print("\nother bytes than the committed table's, and no number beyond what another processor's rounding may give")
    return 0


if __name__ == "__main__":
    sys.exit(main())
