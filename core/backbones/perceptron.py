"""Two linear layers with a ReLU between them: a network without locality."""

import torch
import torch.nn.functional as F
from torch import nn

from stillpoint.core.backbones.backbone import Backbone, Feature, Parts


class Perceptron(Backbone):
    """(B, C, H, W) -> log-probabilities (B, num_classes), for images with C*H*W = `features`.

    Weights fc1 (hidden, features) and fc2 (num_classes, hidden), both with biases.
    """

    def __init__(self, features: int, *, hidden: int = 100, num_classes: int = 10):
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def parts(self) -> Parts:
        return Parts((), (), ("fc1", "fc2"), ())

    @property
    def feature_info(self) -> tuple[Feature, ...]:  # type: ignore[override]
        """No stages: the network has no maps."""
        return ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.fc1(x.flatten(1)))  # (B, hidden)
        return F.log_softmax(self.fc2(hidden), 1)
