"""Checks what a wheel alone offers in an empty environment: layers, metrics, surgery, measuring, explaining."""

import platform

import torch
from torch import nn

import stillpoint
from stillpoint import layers, metrics
from stillpoint.core.kernels.arithmetic import arithmetic

net = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 3, stride=2, padding=1, padding_mode="circular"),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 10),
).eval()
images = torch.randn(4, 3, 32, 32)
before = stillpoint.measure(net, images, max_shift=2)["circular_max_logit_change"]
assert stillpoint.explain(net, images).first_broken is not None
stillpoint.antialias(net, downsample="polyphase", padding="circular", verbose=False)
found = stillpoint.measure(net, images, max_shift=2)
assert found["circular_max_logit_change"] < 1e-5 < before and found["circular_consistency"] == 1
assert stillpoint.explain(net, images).first_broken is None
x = torch.randn(2, 8, 9, 8, requires_grad=True)
layers.BlurPool2d(size=3)(x).sum().backward()
consistency = metrics.ShiftConsistency()
consistency.update(net, images)
assert float(consistency.compute()) == 1
compiled = torch.jit.script(layers.BlurPool2d(size=3))
assert torch.allclose(compiled(x), layers.BlurPool2d(size=3)(x), atol=1e-6)
print(
    f"stillpoint {stillpoint.__version__} works with Python {platform.python_version()}, torch {torch.__version__}, "
    f"{arithmetic(torch.device('cpu'))} kernels"
)
