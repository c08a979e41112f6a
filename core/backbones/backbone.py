"""What every backbone says of itself, in the same words: its stem, its stages, its head."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stillpoint.core.base.modes import evaluating

#: images of up to so many pixels get a form that keeps more of them: a stem that does not stride, a head of
#: one linear layer
SMALL = 64


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, at least 1."""
    return max(1, round(channels * width))


class Feature(NamedTuple):
    """A stage: path of the module that ends it, channels of its map, pixels of the image for one of the map's."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Parts:
    """Where a backbone's parts lie among its modules, by path; names of parameters stay those of its origin.

    stem    all up to the first pooling, that included, in the order in which it runs
    stages  what follows, one path for each stage: the module that ends it
    head    from the last map to the output
    layers  every step of the trunk whose map one may want to look at
    """

    stem: tuple[str, ...]
    stages: tuple[str, ...]
    head: tuple[str, ...]
    layers: tuple[str, ...]


class Backbone(nn.Module):
    """The base of every backbone: (B, in_channels, H, W) -> (B, num_classes), and the maps in between.

    One that derives from it sets `in_channels`, returns its `Parts`, and has a `forward_features`.
    """

    in_channels: int = 3
    #: side of a square image that every stage divides
    _PROBE = 224

    def parts(self) -> Parts:
        raise NotImplementedError(f"{type(self).__name__} does not say what its parts are")

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (B, C, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} has no map before its head")

    @property
    def stem(self) -> nn.Module:
        """All up to the first pooling, that included: (B, in_channels, H, W) -> (B, C, h, w)."""
        return self._sequence(self.parts().stem)

    @property
    def head(self) -> nn.Module:
        """The modules from the last map to the output; what lies between them, a flattening say, is the forward's."""
        return self._sequence(self.parts().head)

    @cached_property
    def feature_info(self) -> tuple[Feature, ...]:
        """The stages from the stem on, measured by two images without numbers: what the larger one has more, in pixels
        of the image and of the map, are a stride apart, whatever a convolution takes off at the borders."""
        small, large = self._shapes(self._PROBE), self._shapes(2 * self._PROBE)
        return tuple(
            Feature(name, shape[1], round(self._PROBE / (large[name][2] - shape[2]))) for name, shape in small.items()
        )

    def _shapes(self, side: int) -> dict[str, tuple[int, ...]]:
        """Of the map that ends the stem, and of that of each stage."""
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
        """The module at a path of `parts`, where `stem` and `head` are modules and not what this class says of them."""
        first, _, rest = path.partition(".")
        module = self._modules[first]
        assert module is not None, path
        return module.get_submodule(rest)

    def _sequence(self, paths: Sequence[str]) -> nn.Module:
        modules = [self.part(path) for path in paths]
        return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
