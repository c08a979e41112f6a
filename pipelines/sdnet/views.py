"""Helpers of the evaluations: the network behind a view's predictions, and a selection of its images."""

import torch
from torch import Tensor, nn

from stillpoint.core.data.sets import evenly
from stillpoint.core.evaluation.registry import View
from stillpoint.core.layers.sparse_coding import SparseCoding2d
from stillpoint.pipelines.sdnet.models import sparse_layers


def network(view: View) -> nn.Module:
    """The network behind a view's predictions."""
    net = getattr(view.predict, "net", None)
    if net is None:
        raise ValueError("this evaluation needs the network itself, not only its predictions")
    return net


def chosen(view: View, limit: int | None) -> Tensor:
    """Positions in the batch of those images that are among `limit` evenly spaced ones of the set; None: all."""
    if limit is None or view.image_set is None:
        return torch.arange(len(view.indices))
    return torch.isin(view.indices, evenly(len(view.image_set), limit)).nonzero().flatten()


def first_layer(view: View) -> SparseCoding2d | None:
    """The first sparse-coding layer, whose lambda is adjusted at test time; None in a plain ResNet."""
    return next(iter(sparse_layers(network(view)).values()), None)
