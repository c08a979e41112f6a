"""The notebook's two networks on derived weights: their log-probabilities in evaluation."""

from typing import Any

import torch
from torch import Tensor

from stillpoint.pipelines.translations.catalogue import models
from stillpoint.pipelines.translations.config import Model
from stillpoint.pipelines.translations.models import build


def is_network(case: dict[str, Any]) -> bool:
    return True


@torch.no_grad()
def run(case: dict[str, Any]) -> dict[str, Tensor]:
    """Every output of a case; KeyError for a network that the notebook does not have."""
    name = case["model"].partition("(")[0]
    (x,) = case["inputs"].values()
    hidden, classes = case["state"]["fc2.weight"].shape[::-1]
    model = Model(name=name, hidden=int(hidden), **{k.lower(): v for k, v in models()[name].settings.items()})
    net = build(model, in_channels=x.shape[1], num_classes=int(classes), image_size=x.shape[-1]).eval()
    net.load_state_dict(case["state"], strict=True)
    (output,) = case["outputs"]
    return {output: net(x)}
