"""The base class of backbones, which names stem, stages and head alike in all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stillpoint.core.base.modes import evaluating

#: up to this image size backbones use their small variant: a stem without stride, a head of one linear layer
SMALL = 64


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, at least 1."""
    return max(1, round(channels * width))


class Feature(NamedTuple):
    """A stage: path of its last module, channels of its map, and the map's stride relative to the image."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Parts:
    """Module paths of a backbone's parts, since parameters keep the names of their origin (torchvision, for example).

    stem    everything up to and including the first pooling, in the order of execution
    stages  the last module of each later stage
    head    from the last map to the output
    layers  steps of the trunk whose maps can be inspected
    """

    stem: tuple[str, ...]
    stages: tuple[str, ...]
    head: tuple[str, ...]
    layers: tuple[str, ...]


class Backbone(nn.Module):
    """The base of every backbone: (B, in_channels, H, W) -> (B, num_classes), with access to the maps in between.

    A subclass sets `in_channels` and defines `parts` and `forward_features`.
    """

    in_channels: int = 3
    #: side of a square image that is a multiple of every stage's stride
    _PROBE = 224

    def parts(self) -> Parts:
        raise NotImplementedError(f"{type(self).__name__} does not define parts()")

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (B, C, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward_features()")

    @property
    def stem(self) -> nn.Module:
        """Everything up to and including the first pooling: (B, in_channels, H, W) -> (B, C, h, w)."""
        return self._sequence(self.parts().stem)

    @property
    def head(self) -> nn.Module:
        """The modules from the last map to the output; operations between them, such as flattening, are in
        `forward`."""
        return self._sequence(self.parts().head)

    @cached_property
    def feature_info(self) -> tuple[Feature, ...]:
        """The stages, the stem first. A stride is measured on two images of the meta device, as the ratio of the pixels
        added to the image and to the map, which unpadded borders do not change."""
        small, large = self._shapes(self._PROBE), self._shapes(2 * self._PROBE)
        return tuple(
            Feature(name, shape[1], round(self._PROBE / (large[name][2] - shape[2]))) for name, shape in small.items()
        )

    def _shapes(self, side: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the stem's map and of each stage's."""
        found: dict[str, tuple[int, ...]] = {}
        names = (self.parts().stem[-1], *self.parts().stages)
        handles = [
            self.part(name).register_forward_hook(lambda m, i, y, name=name: found.update({name: tuple(y.shape)}))
            for name in names
        ]
        image = torch.zeros(1, self.in_channels, side, side, device="meta")
        tensors = {name: t.to("meta") for name, t in (*self.named_parameters(), *self.named_buffers())}
        try:
            with evaluating(self), torch.no_grad():
                torch.func.functional_call(self, tensors, (image,))
        finally:
            for handle in handles:
                handle.remove()
        return found

    def part(self, path: str) -> nn.Module:
        """The module at a path of `parts`; `stem` and `head` name child modules, not this class's properties."""
        first, _, rest = path.partition(".")
        module = self._modules[first]
        assert module is not None, path
        return module.get_submodule(rest)

    def _sequence(self, paths: Sequence[str]) -> nn.Module:
        modules = [self.part(path) for path in paths]
        return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
