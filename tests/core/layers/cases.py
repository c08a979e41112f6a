"""Every layer of the house once, and what it takes: for the laws that all of them obey."""

from collections.abc import Callable

import torch
from torch import nn

from stillpoint.core import layers
from stillpoint.core.layers.wavelet_packings import RESNET


def _twin() -> nn.Module:
    mixing = layers.WaveletMixing2d(3, RESNET, stride=2)
    return layers.WaveletTwin2d(nn.Conv2d(3, 4, 7, stride=2, padding=3), mixing)


#: what layers are made of: Modules, but no layers themselves
PARTS = {
    "ConstantBuffers",
    "FusedFilters",
    "FusedSequential",
    "HalfPasses",
    "LearntDictionary",
    "MapPasses",
    "LearnableSampler",
    "OwnPool",
}


def _keyed() -> nn.Module:
    """Its noise is a function of a key; without one it would be PyTorch's, drawn anew by every forward."""
    layer = layers.LearnablePolyphaseDownsample2d(8)
    layer.set_noise(0)
    return layer


#: a layer, and the shapes of what it takes
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "AdaptiveBlur2d": (lambda: layers.AdaptiveBlur2d(8), ((2, 8, 9, 8),)),
    "AttentionScorer": (lambda: layers.AttentionScorer(8, hidden=3), ((2, 8, 10, 8),)),
    "AveragePool2d": (layers.AveragePool2d, ((2, 8, 9, 8),)),
    "MaxPool2d": (layers.MaxPool2d, ((2, 8, 9, 8),)),
    "BlurPool1d": (layers.BlurPool1d, ((2, 8, 9),)),
    "BlurPool2d": (layers.BlurPool2d, ((2, 8, 9, 8),)),
    "BlurPool3d": (layers.BlurPool3d, ((2, 8, 9, 8, 7),)),
    "ChannelNorm2d": (lambda: layers.ChannelNorm2d(8), ((2, 8, 9, 8),)),
    "ComplexModulus": (layers.ComplexModulus, ((2, 8, 2, 9, 8),)),
    "ConvScorer": (lambda: layers.ConvScorer(8, hidden=3), ((2, 8, 10, 8),)),
    "GraphScorer": (lambda: layers.GraphScorer(8, hidden=3), ((2, 8, 10, 8),)),
    "IdealLowPass2d": (layers.IdealLowPass2d, ((2, 8, 9, 8),)),
    "LearnablePolyphaseDownsample2d": (_keyed, ((2, 8, 9, 8),)),
    "LearnablePolyphaseUpsample2d": (layers.LearnablePolyphaseUpsample2d, ((2, 8, 9, 8), (2,))),
    "DenseMaxPool2d": (layers.DenseMaxPool2d, ((2, 8, 9, 8),)),
    "MaxBlurPool2d": (layers.MaxBlurPool2d, ((2, 8, 9, 8),)),
    "ModulusBatchNorm2d": (lambda: layers.ModulusBatchNorm2d(8), ((2, 8, 9, 8),)),
    "ModulusBias2d": (lambda: layers.ModulusBias2d(8), ((2, 8, 9, 8),)),
    "PacketHalves2d": (layers.PacketHalves2d, ((2, 3, 32, 24),)),
    "PaddedConv2d": (lambda: layers.PaddedConv2d(8, 6, 3, padding=1, padding_mode="circular"), ((2, 8, 9, 8),)),
    "PerceptronScorer": (lambda: layers.PerceptronScorer(8), ((2, 8, 10, 8),)),
    "PointwiseConv2d": (lambda: layers.PointwiseConv2d(6, 8, stride=2), ((2, 6, 9, 8),)),
    "PolynomialActivation2d": (lambda: layers.PolynomialActivation2d(8), ((2, 8, 9, 8),)),
    "PolyphaseDownsample2d": (lambda: layers.PolyphaseDownsample2d(size=3), ((2, 8, 9, 8),)),
    "PolyphaseUpsample2d": (lambda: layers.PolyphaseUpsample2d(size=3), ((2, 8, 9, 8), (2,))),
    "Scattering2d": (layers.Scattering2d, ((2, 3, 16, 8),)),
    "SparseCoding1d": (lambda: layers.SparseCoding1d(8, 6), ((2, 5, 8),)),
    "SparseCoding2d": (lambda: layers.SparseCoding2d(8, 6), ((2, 8, 9, 8),)),
    "Subsample": (layers.Subsample, ((2, 8, 9, 8),)),
    "TranslationInvariantDownsample2d": (lambda: layers.TranslationInvariantDownsample2d(8), ((2, 8, 9, 8),)),
    "TwinStem": (lambda: layers.TwinStem(_twin(), joint=nn.ReLU()), ((2, 3, 32, 24),)),
    "WaveletMixing2d": (lambda: layers.WaveletMixing2d(3, RESNET, stride=2), ((2, 3, 32, 24),)),
    "WaveletPackets2d": (layers.WaveletPackets2d, ((2, 3, 32, 24),)),
    "WaveletTwin2d": (_twin, ((2, 3, 32, 24),)),
}


def inputs(name: str, seed: int = 0) -> list[torch.Tensor]:
    """Numbers for a layer, the same for the same seed; a phase is an integer, and 0 is one."""
    draws = torch.Generator().manual_seed(seed)
    _, shapes = CASES[name]
    return [
        torch.zeros(shape, dtype=torch.int64) if len(shape) == 1 else torch.randn(shape, generator=draws)
        for shape in shapes
    ]
