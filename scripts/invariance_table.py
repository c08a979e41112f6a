#!/usr/bin/env python3
"""Measures shift-invariant surgery on networks with random weights: docs/invariance.csv, and its table on the page.

    python scripts/invariance_table.py

Largest change of a logit, relative to the largest logit, for one random image of 64 x 64 under four circular shifts:
of the untouched network, of the treated one in float32, and in float64.
"""

import csv
import re
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torchvision import models

import stillpoint

DOCS = Path(__file__).resolve().parent.parent / "docs"
TABLE, PAGE = DOCS / "invariance.csv", DOCS / "antialias.md"
HEAD = ("network", "before", "after, float32", "after, float64")
SHIFTS = ((1, 0), (0, 1), (13, 30), (16, 8))
TORCHVISION = ("resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v3_small", "regnet_y_400mf")
TIMM = (
    *("resnet26d", "regnetx_002", "seresnet18", "ecaresnet26t", "mobilenetv2_035", "efficientnet_b0"),
    *("convnext_atto", "convnextv2_atto"),
)
MARKED = re.compile(r"(<!-- stated: docs/invariance\.csv -->\n\n).*?(\n\n<!-- /stated -->)", re.S)


def change(net: nn.Module, x: Tensor) -> float:
    y = net(x)
    return max(float((net(x.roll(shift, (2, 3))) - y).abs().max() / y.abs().max()) for shift in SHIFTS)


@torch.no_grad()
def row(name: str) -> list[str]:
    torch.manual_seed(0)
    library, _, short = name.rpartition(" ")
    net = getattr(models, short)(weights=None) if library else timm.create_model(short)
    net, x = net.eval(), torch.randn(1, 3, 64, 64)
    before = change(net, x)
    stillpoint.antialias(net, downsample="polyphase", padding="circular", verbose=False)
    return [name, f"{before:.2f}", f"{change(net, x):.0e}", f"{change(net.double(), x.double()):.0e}"]


def markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *rows))


def main() -> None:
    rows = [row(name) for name in (*(f"torchvision {name}" for name in TORCHVISION), *TIMM)]
    with TABLE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *rows])
    PAGE.write_text(MARKED.sub(lambda found: found[1] + markdown(rows) + found[2], PAGE.read_text()))


if __name__ == "__main__":
    main()
