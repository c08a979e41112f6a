"""What the package offers: every layer by its name, and all of them without numbers on the meta device."""

import inspect
import pkgutil
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import nn

from stillpoint import pipelines
from stillpoint.core import layers
from stillpoint.core.layers.wavelet_packings import RESNET

FILES = [import_module(f"stillpoint.core.layers.{file.name}") for file in pkgutil.iter_modules(layers.__path__)]
MODULES = {
    name: thing
    for file in FILES
    for name, thing in vars(file).items()
    if inspect.isclass(thing) and issubclass(thing, nn.Module) and thing.__module__ == file.__name__
    # the base of the fillings of the slot is no layer by itself
    if not name.startswith("_") and thing is not layers.Downsample
}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_layer_is_taken_from_the_package(name: str) -> None:
    assert name in layers.__all__ and getattr(layers, name) is MODULES[name]


@pytest.mark.parametrize(
    "name", ["complex_modulus", "modulus_batch_norm2d", "scattering2d", "sparse_coding2d", "wavelet_packets2d"]
)
def test_and_so_is_its_function(name: str) -> None:
    assert name in layers.__all__ and callable(getattr(layers, name))


def test_all_that_is_offered_is_there() -> None:
    assert not [name for name in layers.__all__ if not hasattr(layers, name)]


def _twin() -> nn.Module:
    mixing = layers.WaveletMixing2d(3, RESNET, stride=2)
    return layers.WaveletTwin2d(nn.Conv2d(3, 4, 7, stride=2, padding=3), mixing)


#: a layer, and the shapes of what it takes
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "AdaptiveBlur2d": (lambda: layers.AdaptiveBlur2d(8), ((2, 8, 9, 8),)),
    "BlurPool1d": (layers.BlurPool1d, ((2, 8, 9),)),
    "BlurPool2d": (layers.BlurPool2d, ((2, 8, 9, 8),)),
    "BlurPool3d": (layers.BlurPool3d, ((2, 8, 9, 8, 7),)),
    "ComplexModulus": (layers.ComplexModulus, ((2, 8, 2, 9, 8),)),
    "IdealLowPass2d": (layers.IdealLowPass2d, ((2, 8, 9, 8),)),
    "MaxBlurPool2d": (layers.MaxBlurPool2d, ((2, 8, 9, 8),)),
    "ModulusBatchNorm2d": (lambda: layers.ModulusBatchNorm2d(8), ((2, 8, 9, 8),)),
    "ModulusBias2d": (lambda: layers.ModulusBias2d(8), ((2, 8, 9, 8),)),
    "PacketHalves2d": (layers.PacketHalves2d, ((2, 3, 32, 24),)),
    "PaddedConv2d": (lambda: layers.PaddedConv2d(8, 6, 3, padding=1, padding_mode="circular"), ((2, 8, 9, 8),)),
    "PointwiseConv2d": (lambda: layers.PointwiseConv2d(6, 8, stride=2), ((2, 6, 9, 8),)),
    "PolyphaseDownsample2d": (lambda: layers.PolyphaseDownsample2d(size=3), ((2, 8, 9, 8),)),
    "PolyphaseUpsample2d": (lambda: layers.PolyphaseUpsample2d(size=3), ((2, 8, 9, 8), (2,))),
    "Scattering2d": (layers.Scattering2d, ((2, 3, 16, 8),)),
    "SparseCoding1d": (lambda: layers.SparseCoding1d(8, 6), ((2, 5, 8),)),
    "SparseCoding2d": (lambda: layers.SparseCoding2d(8, 6), ((2, 8, 9, 8),)),
    "Subsample": (layers.Subsample, ((2, 8, 9, 8),)),
    "TwinStem": (lambda: layers.TwinStem(_twin(), joint=nn.ReLU()), ((2, 3, 32, 24),)),
    "WaveletMixing2d": (lambda: layers.WaveletMixing2d(3, RESNET, stride=2), ((2, 3, 32, 24),)),
    "WaveletPackets2d": (layers.WaveletPackets2d, ((2, 3, 32, 24),)),
    "WaveletTwin2d": (_twin, ((2, 3, 32, 24),)),
}


def test_every_layer_has_a_case() -> None:
    assert set(CASES) == set(MODULES)


def _inputs(shapes: tuple[tuple[int, ...], ...], device: str) -> list[torch.Tensor]:
    # a phase is an integer, and 0 is one
    return [torch.zeros(shape, device=device, dtype=torch.int64 if len(shape) == 1 else None) for shape in shapes]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", sorted(CASES))
def test_a_layer_without_numbers_says_the_shape_of_its_result(name: str, training: bool) -> None:
    make, shapes = CASES[name]
    layer = make().train(training)
    want = layer(*_inputs(shapes, "cpu"))
    got = layer.to("meta")(*_inputs(shapes, "meta"))
    assert got.is_meta and got.shape == want.shape and got.dtype == want.dtype


@pytest.mark.parametrize(
    "name", ["aps/resnet18_aps3", "blurpool/resnet18_lpf4", "sdnet/sdnet18", "wavelet_twins/R34wyC"]
)
def test_a_network_without_numbers_says_the_shape_of_its_logits(name: str) -> None:
    net = pipelines.create(name).to("meta").eval()
    assert net(torch.zeros(2, 3, 224, 224, device="meta")).shape == (2, 1000)
