"""Writes docs/performance.md and its figure from the JSON in benchmarks/results/: ``python -m benchmarks.report``.

Every number of the tables is read from those files; the text above them is benchmarks/performance.md.in.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks import jobs
from stillpoint.core.base.files import write_atomic, write_json
from stillpoint.core.reporting.figures import PALETTE, save, styled, subplots
from stillpoint.core.reporting.writing import bold, markdown_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"

_ABOUT = ("hidden", "size", "padding", "select", "depth", "groups", "layout", "dtype")


def load(subject: str = "layers") -> dict[str, dict[str, Any]]:
    """Device ("cpu", "cuda") -> the measurements of a subject on it."""
    paths = sorted(RESULTS.glob(f"{subject}-*.json"))
    return {path.stem.removeprefix(f"{subject}-"): json.loads(path.read_text()) for path in paths}


def table(measured: dict[str, Any], job: str) -> str:
    """One job as a table, a row for each case: times with quartiles, ratio to the baseline, floor, peak memory."""
    cases = [case for case in measured["cases"] if case["job"] == job]
    about = [key for key in _ABOUT if any(key in case for case in cases)]
    baseline = cases[0]["baseline"]
    head = [*about, "pass", "stillpoint, ms", f"{baseline}, ms", f"ratio to {baseline}", "others, ms", "floor, ms"]
    bounded = any(case.get("bounds") for case in cases)
    head += ["its pieces, ms"] * bounded
    beyond = any("beyond" in case for case in cases)
    head += ["ratio beyond them"] * beyond
    head += ["peak, MiB", f"{baseline} peak, MiB"]
    lines = []
    for case in cases:
        found = case["contenders"]
        ours, base = found["stillpoint"], found[case["baseline"]]
        others = [f"{name} {v['median_ms']:.2f}" for name, v in found.items() if name not in ("stillpoint", baseline)]
        ratio = f"{case['ratio']:.2f}"
        cells = [*(str(case.get(key, "")) for key in about), case["mode"], _time(ours), _time(base)]
        cells += [bold(ratio) if case["ratio"] > 1 else ratio, ", ".join(others), f"{case['floor_ms']:.2f}"]
        pieces = ", ".join(f"{name} {v['median_ms']:.2f}" for name, v in case.get("bounds", {}).items())
        cells += [pieces] * bounded
        cells += [f"{case['beyond']:.2f}" if "beyond" in case else ""] * beyond
        cells += [f"{v['peak_bytes'] / 2**20:.1f}" for v in (ours, base)]
        lines.append(cells)
    return markdown_table(head, lines)


def _time(entry: dict[str, float]) -> str:
    return f"{entry['median_ms']:.2f} ({entry['low_ms']:.2f} to {entry['high_ms']:.2f})"


def losses(measured: dict[str, Any]) -> list[str]:
    """A line for every contender that was faster than ours."""
    lines = []
    for case in measured["cases"]:
        ours = case["contenders"]["stillpoint"]["median_ms"]
        for name, entry in case["contenders"].items():
            if entry["median_ms"] < ours:
                about = ", ".join(f"{key} {case[key]}" for key in _ABOUT if key in case)
                slower = ours / entry["median_ms"]
                lines.append(f"- {case['job']} ({about}; {case['mode']}): {name} is {slower:.2f} times as fast.")
    return lines


def machine(measured: dict[str, Any]) -> str:
    """A sentence on the machine and settings behind the numbers."""
    m = measured["machine"]
    peers = ", ".join(f"{name} {version}" if version else f"no {name}" for name, version in m["peers"].items())
    copying = f"copying: {m['copy_gigabytes_per_second']} GB/s; " if "copy_gigabytes_per_second" in m else ""
    after = f" to {m['load_after'][0]}" if "load_after" in m else ""
    return (
        f"{m['device']}, {m['threads']} of {m['processors']} threads, PyTorch {m['torch']}, {peers}; clock: "
        f"{m['clock']}, {m['rounds']} rounds; {copying}load "
        f"{m['load_before'][0]}{after}, {m['seconds']:.0f} s in all."
    )


@styled
def figure(measured: dict[str, Any], path: Path) -> Path:
    """Ratio of our time to the baseline's: a dot for each case, a row for each job; below 1 we are faster."""
    jobs = list(dict.fromkeys(case["job"] for case in measured["cases"]))
    fig, axes = subplots(1, 1, (7.0, 0.5 * len(jobs) + 1.6))
    axis = axes[0, 0]
    for mode, colour, shift in (("forward", PALETTE[0], 0.14), ("forward+backward", PALETTE[1], -0.14)):
        for row, job in enumerate(jobs):
            ratios = [case["ratio"] for case in measured["cases"] if case["job"] == job and case["mode"] == mode]
            places = [len(jobs) - 1 - row + shift] * len(ratios)
            axis.plot(ratios, places, "o", color=colour, alpha=0.6, label=mode if row == 0 else None)
    axis.axvline(1, color="0.4", linewidth=1)
    baselines = {case["job"]: case["baseline"] for case in measured["cases"]}
    axis.set_yticks(range(len(jobs))[::-1], [f"{job}\nbeside {baselines[job]}" for job in jobs])
    axis.set_xscale("log", base=2)
    axis.set_xlabel("time of stillpoint over time of the other (1/2: twice as fast)")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return save(fig, path)


def page() -> str:
    """The page, in Markdown."""
    parts = [(HERE / "performance.md.in").read_text().rstrip()]
    for device, measured in load().items():
        parts += [f"## Measured: {device}", machine(measured)]
        parts.append(f"![Ratios of time, {device}](../benchmarks/results/layers-{device}.png)")
        for job in dict.fromkeys(case["job"] for case in measured["cases"]):
            parts += [f"### {job}", table(measured, job)]
            later = [run for run in measured.get("later", []) if job in run["jobs"]]
            if later:
                parts.append(
                    f"Measured {1 + len(later)} times; the table shows the fastest run of each contender. "
                    "Later runs:\n\n" + "\n".join(f"- {machine({'machine': run})}" for run in later)
                )
        parts += _lost(measured)
    for device, measured in load("sampling").items():
        parts += [f"## Learned sampling and alias-free layers: {device}", machine(measured)]
        for job in dict.fromkeys(case["job"] for case in measured["cases"]):
            parts += [f"### {job}", table(measured, job)]
        parts += _lost(measured)
    return "\n\n".join([*parts, *jobs.sections(RESULTS)]) + "\n"


def _lost(measured: dict[str, Any]) -> list[str]:
    lost = losses(measured)
    return ["### Where we lose", "\n".join(lost) if lost else "Nowhere in this table."]


def keep(subject: str, device: str, rows: dict[str, Any]) -> None:
    """Merges measurements of whole jobs into those on file, and rewrites the page."""
    path = RESULTS / f"{subject}-{device}.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, before | rows)
    write()


def write() -> None:
    """The page and its pictures."""
    for device, measured in load().items():
        figure(measured, RESULTS / f"layers-{device}.png")
    write_atomic(PAGE, page())


if __name__ == "__main__":
    write()
