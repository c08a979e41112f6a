"""Shift metrics in your own loop: python -m examples.bare_loop

Trains a small network on real handwritten digits (8x8), plain and antialiased, and prints what a shift changes.
Under torchrun the same code returns the numbers over all processes.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torchmetrics import MetricCollection

import stillpoint
from stillpoint import metrics


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 images (N, 1, 8, 8) in [0, 1] and their labels."""
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def train(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()


def measured(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    together = MetricCollection(
        {
            "accuracy": metrics.Accuracy(),
            "consistency": metrics.ShiftConsistency(max_shift=2),
            "flip_rate": metrics.FlipRate(max_shift=2),
            "logit_change": metrics.LogitChange(max_shift=2),
            "worst_accuracy": metrics.WorstShiftAccuracy(),
        }
    )
    for part, right in zip(images.split(100), labels.split(100), strict=True):
        together.update(net, part, labels=right)
    return {name: float(value) for name, value in together.compute().items()}


def main(epochs: int = 5) -> list[dict[str, float]]:
    torch.manual_seed(0)
    images, labels = digits()
    tables = []
    for antialiased in (False, True):
        net = network()
        if antialiased:
            stillpoint.antialias(net)
        train(net, images[:1500], labels[:1500], epochs)
        tables.append(measured(net, images[1500:], labels[1500:]))
        print("antialiased" if antialiased else "plain", {name: round(value, 4) for name, value in tables[-1].items()})
    return tables


if __name__ == "__main__":
    main()
