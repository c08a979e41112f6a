"""Which wavelet packets each channel of a wavelet twin combines, as the authors chose them.

Source: Leterme, Polisano, Perrier, Alahari, "From CNNs to Shift-Invariant Twin Models Based on Complex Wavelets" (lists
of the authors' code). All these maps have their energy at negative horizontal frequencies.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The packets of a twin, and which of them each output combines.

    depth    stages of the packet tree
    maps     numbers of the feature maps (see `wavelet_packets2d`), section after section
    inputs   maps in each section
    outputs  channels made from each section
    groups   of each section: contiguous in its inputs and in its outputs, as in a grouped convolution

    ValueError for contradictory fields.
    """

    depth: int
    maps: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    groups: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.inputs) == len(self.outputs) == len(self.groups):
            raise ValueError(
                "inputs, outputs and groups must have one entry per section, got "
                f"{self.inputs}, {self.outputs}, {self.groups}"
            )
        if sum(self.inputs) != len(self.maps):
            raise ValueError(f"inputs {self.inputs} must sum to the number of maps, {len(self.maps)}")
        for n, out, groups in zip(self.inputs, self.outputs, self.groups, strict=True):
            if groups < 1 or n % groups or out % groups:
                raise ValueError(f"groups must divide the {n} maps and the {out} outputs of a section, got {groups}")

    def columns(self) -> list[Tensor]:
        """For each section, the places in `maps` that its outputs combine: (outputs, inputs / groups) int64."""
        found, start = [], 0
        for n, out, groups in zip(self.inputs, self.outputs, self.groups, strict=True):
            of_group = start + torch.arange(n, device="cpu").view(groups, n // groups)
            found.append(of_group.repeat_interleave(out // groups, dim=0))
            start += n
        return found


# fmt: off
#: AlexNet: 94 of 128 maps, without the low-pass ones and the quadrant of high vertical and horizontal frequency
ALEXNET = Packing(
    depth=3,
    maps=(
        1, 2, 67, 65, 66, 3, 4, 5, 70, 71, 8, 10, 73, 75, 76, 77, 78, 79, 6, 7, 68, 69, 9, 11, 72, 74, 12, 13, 14, 15,
        17, 18, 20, 21, 24, 26, 80, 83, 86, 87, 89, 91, 92, 93, 94, 95, 33, 34, 36, 37, 40, 42, 96, 99, 102, 103, 105,
        107, 108, 109, 110, 111, 16, 19, 22, 23, 25, 27, 28, 29, 30, 31, 81, 82, 84, 85, 88, 90, 32, 35, 38, 39, 41, 43,
        44, 45, 46, 47, 97, 98, 100, 101, 104, 106,
    ),
    inputs=(6, 24, 64), outputs=(6, 18, 8), groups=(6, 6, 4),
)
#: ResNet: 30 of 32 maps, without the low-pass ones
RESNET = Packing(
    depth=2,
    maps=(
        1, 2, 19, 17, 18, 3, 5, 6, 20, 23, 9, 10, 24, 27, 13, 14, 28, 31, 4, 7, 21, 22, 8, 11, 25, 26, 12, 15, 29, 30,
    ),
    inputs=(6, 24), outputs=(12, 12), groups=(6, 6),
)
#: ResNet, also without the packets that peak at 0.42 cycles per pixel along an axis: one atom per output
RESNET_EXCLUDING = Packing(
    depth=2,
    maps=(1, 2, 19, 17, 18, 3, 5, 23, 10, 27, 31, 7, 21, 11, 26, 15),
    inputs=(6, 4, 1, 4, 1), outputs=(12, 4, 2, 4, 2), groups=(6, 4, 1, 4, 1),
)
# fmt: on
