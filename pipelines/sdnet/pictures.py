"""The evaluation "reconstructions": test images reconstructed from the codes after the stem and each stage."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from stillpoint.core.config.schema import RunConfig
from stillpoint.core.evaluation.registry import Result, View
from stillpoint.pipelines.sdnet.pixels import Pixels
from stillpoint.pipelines.sdnet.reconstruction import reconstruct, stages
from stillpoint.pipelines.sdnet.views import chosen, network


class Reconstructions:
    """Reconstructions of some test images from the stem and each stage of an invertible network.

    The map ``reconstructions_pixels`` (1 + stages, pictures, C, H, W) has pixels, not clipped to [0, 1], with the
    images themselves first. Networks with shortcuts, plain ResNets and those with MODEL.DOWNSAMPLE have none. Batch
    norms are inverted with the eps of the forward, or under the authors' protocol without, as in their code.
    """

    def __init__(self, config: Any, seed: int, *, run: RunConfig) -> None:
        self.config, self.run, self.pixels = config, run, Pixels.of(run)
        self.pictures: Tensor | None = None

    def update(self, view: View) -> None:
        rows, net = chosen(view, self.config.pictures), network(view)
        # only the stem of other sdnets is invertible: their blocks have shortcuts
        model: Any = self.run.model
        if not len(rows) or not model.name.endswith("_noshortcut") or model.downsample != "none":
            return
        # in float64, because in the deepest stages images differ in the seventh decimal
        net, images, authors = (
            deepcopy(net).double(),
            view.images[rows].double(),
            self.run.evaluate.protocol == "authors",
        )
        with torch.no_grad():
            made = [images, *(reconstruct(net, images, *place, authors=authors) for place in stages(net))]  # type: ignore[arg-type]
        pictures = torch.stack([self.pixels.scaled(one) for one in made])  # (1 + stages, B, C, H, W)
        self.pictures = pictures if self.pictures is None else torch.cat([self.pictures, pictures], 1)

    def compute(self) -> Result:
        return {} if self.pictures is None else {"reconstructions_pixels": self.pictures.cpu().contiguous()}
