"""Treated networks go through ONNX with their numbers, for every batch, height and width: make interop."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import stillpoint
from stillpoint.core.layers import AdaptiveBlur2d, BlurPool2d, PolyphaseDownsample2d
from stillpoint.core.surgery.antialias import POLICIES

FREE = torch.export.Dim.DYNAMIC


class Residual(nn.Module):
    """A block with a shortcut, both of which stride."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.shortcut = nn.Conv2d(8, 8, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def network() -> nn.Module:
    torch.manual_seed(0)
    stem = (nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, Residual(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def treated(**options: Any) -> nn.Module:
    net = network().eval()
    stillpoint.antialias(net, verbose=False, **options)
    return net


CASES = {
    "blurred": lambda: treated(policy=POLICIES),
    "invariant": lambda: treated(downsample="polyphase", padding="circular"),
    "BlurPool2d": lambda: BlurPool2d(),
    "AdaptiveBlur2d": lambda: AdaptiveBlur2d(8).eval(),
    "PolyphaseDownsample2d": lambda: PolyphaseDownsample2d(size=3),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_onnxruntime_gives_the_numbers_for_every_batch_height_and_width(name: str, tmp_path: Path) -> None:
    net, images = CASES[name](), torch.randn(2, 8, 32, 32)
    program = torch.onnx.export(net, (images,), dynamo=True, dynamic_shapes=({0: FREE, 2: FREE, 3: FREE},))
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    given = session.get_inputs()[0].name
    for shape in ((2, 8, 32, 32), (1, 8, 33, 39), (3, 8, 48, 32)):
        x = torch.randn(shape)
        found = torch.from_numpy(session.run(None, {given: x.numpy()})[0])
        torch.testing.assert_close(found, net(x), rtol=1e-4, atol=1e-5)
