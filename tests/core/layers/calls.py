"""A right call of every function and of every layer, for what changes one argument of it at a time."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core import layers
from stillpoint.core.layers.translation_invariant import Response
from tests.core.layers.cases import CASES, inputs
from tests.core.layers.fuzz import Call

LAST = torch.channels_last


def _map(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _of(function: Callable[..., Any], *given: Callable[[], Any], **options: Any) -> Callable[[], Call]:
    """A call whose tensors and modules are made anew each time."""
    return lambda: Call(
        function,
        tuple(part() for part in given),
        {name: value() if inspect.isfunction(value) else value for name, value in options.items()},
    )


def _x() -> Tensor:
    return _map(2, 8, 6, 4)


def _last() -> Tensor:
    return _x().contiguous(memory_format=LAST)


def _phase() -> Tensor:
    return torch.tensor([1, 2])


def _ones() -> Tensor:
    return torch.linspace(0.5, 1.5, 8)


def _weights() -> Tensor:
    return _map(2, 4).softmax(1)


def _response() -> Response:
    return Response(_x(), _x().relu(), _map(2, 8, 4).softmax(2))


def _conv() -> nn.Module:
    return nn.Conv2d(8, 6, 3, padding=1).to(memory_format=LAST)


#: functions, each by its name and what is particular; those without a tensor take numbers alone
FUNCTIONS: dict[str, Callable[[], Call]] = {
    "adaptive_blur2d": _of(layers.adaptive_blur2d, _x, lambda: _map(2, 18, 6, 4), size=3),
    "adaptive_blur2d, stride": _of(layers.adaptive_blur2d, _last, lambda: _map(2, 18, 3, 2), size=3, stride=2),
    "band_limit2d": _of(layers.band_limit2d, _x),
    "binomial_kernel": _of(layers.binomial_kernel, lambda: 3, lambda: 2),
    "binomial_taps": _of(layers.binomial_taps, lambda: 3),
    "blur_pool1d": _of(layers.blur_pool1d, lambda: _map(2, 8, 9)),
    "blur_pool2d": _of(layers.blur_pool2d, _x),
    "blur_pool2d, channels last": _of(layers.blur_pool2d, _last, padding="circular"),
    "blur_pool3d": _of(layers.blur_pool3d, lambda: _map(1, 2, 6, 5, 4)),
    "channel_norm2d": _of(layers.channel_norm2d, _x, _ones, _ones),
    "channel_norm2d, channels last": _of(layers.channel_norm2d, _last, _ones, _ones, divisor="pixel"),
    "choose_phase": _of(layers.choose_phase, _x),
    "complex_modulus": _of(layers.complex_modulus, lambda: _map(2, 3, 2, 6, 4)),
    "conv_norm_act": _of(
        layers.conv_norm_act, _last, _conv, lambda: nn.BatchNorm2d(6), nn.ReLU, lambda: _map(2, 6, 6, 4)
    ),
    "dense_max_pool2d": _of(layers.dense_max_pool2d, _x),
    "dense_max_pool2d, three": _of(layers.dense_max_pool2d, _last, kernel_size=3, margin="same"),
    "evenness_penalty": _of(layers.evenness_penalty, lambda: [_response(), _response()]),
    "ideal_lowpass2d": _of(layers.ideal_lowpass2d, _x, stride=2),
    "ideal_upsample2d": _of(layers.ideal_upsample2d, _x),
    "mix_phases": _of(layers.mix_phases, _x, _weights),
    "mix_phases, channels": _of(layers.mix_phases, _last, lambda: _map(2, 8, 4).softmax(2)),
    "modulus_batch_norm2d": _of(layers.modulus_batch_norm2d, _x, _ones, _ones, _ones),
    "norm_act": _of(layers.norm_act, _last, lambda: nn.BatchNorm2d(8), nn.ReLU, _last),
    "pad": _of(layers.pad, _x, lambda: [(1, 2), (2, 1)], padding="reflect"),
    "phase_weights": _of(layers.phase_weights, lambda: _map(2, 4), tau=0.5, noise=lambda: _map(2, 4)),
    "place_phase": _of(layers.place_phase, _x, _phase),
    "polynomial2d": _of(layers.polynomial2d, _x, lambda: torch.tensor([0.5, 1.0, 0.25])),
    "polyphase_components": _of(layers.polyphase_components, _x),
    "polyphase_downsample2d": _of(layers.polyphase_downsample2d, _x, size=3, return_phase=True),
    "polyphase_downsample2d, given": _of(layers.polyphase_downsample2d, _last, size=3, phase=_phase),
    "polyphase_upsample2d": _of(layers.polyphase_upsample2d, _x, _phase, size=3),
    "sample_at": _of(layers.sample_at, _x, _phase),
    "sample_at, soft": _of(layers.sample_at, _x, lambda: layers.SoftGrid(_weights(), _map(2, 4))),
    "scattering2d": _of(layers.scattering2d, lambda: _map(1, 2, 8, 8)),
    "shift_features": _of(layers.shift_features, _x, shift=(1, 2)),
    "sparse_coding1d": _of(layers.sparse_coding1d, lambda: _map(2, 5, 8), lambda: _map(6, 8)),
    "sparse_coding2d": _of(layers.sparse_coding2d, _x, lambda: _map(5, 8, 3, 3), padding=1),
    "spread_phases": _of(layers.spread_phases, _x, _weights),
    "take_phase": _of(layers.take_phase, _x, _phase),
    "take_phase, channels last": _of(layers.take_phase, _last, _phase),
    "translation_invariant_downsample2d": _of(
        layers.translation_invariant_downsample2d,
        _x,
        lambda: _map(8, 1, 3, 3),
        scale=lambda: torch.full((8, 1, 1, 1), 0.5),
        return_response=True,
    ),
    "undoing_losses": _of(layers.undoing_losses, lambda: [_response()], shifts=[(1, 2)]),
    "wavelet_packets2d": _of(layers.wavelet_packets2d, lambda: _map(2, 3, 16, 12)),
    # what builds a layer by its name
    "downsample_factory": _of(
        lambda *given, **options: layers.downsample_factory(*given, **options)(8)(_x()), lambda: "blur"
    ),
    "phase_scorer": _of(
        lambda *given, **options: layers.phase_scorer(*given, **options)(_x(), (2, 2)), lambda: "conv", channels=8
    ),
}


def _defaults(thing: Any) -> dict[str, Any]:
    """The options of a function or class and their defaults."""
    found = inspect.signature(thing).parameters.values()
    fixed = ("device", "dtype")
    return {p.name: p.default for p in found if p.default is not p.empty and p.name not in fixed}


def _calls() -> dict[str, tuple[Callable[[], Call], dict[str, Any]]]:
    found = {name: (make, _defaults(make().function)) for name, make in FUNCTIONS.items()}
    for name, (make, _) in CASES.items():
        found[f"{name}, called"] = (lambda name=name, make=make: Call(make(), tuple(inputs(name)), {})), {}
        if name == "PaddedConv2d":  # its arguments are PyTorch's
            continue
        kind, given = _built(make)
        # by their names, for each of them is changed; what a module holds was changed in the call
        modules = {key: part for key, part in given.items() if isinstance(part, nn.Module)}
        options = {key: part for key, part in given.items() if key not in modules}
        found[f"{name}, built"] = (
            _of(
                lambda name=name, kind=kind, modules=modules, **options: kind(**copy.deepcopy(modules), **options)(
                    *inputs(name)
                ),
                **options,
            ),
            _defaults(kind),
        )
    return found


def _built(make: Callable[[], nn.Module]) -> tuple[type, dict[str, Any]]:
    """The class of a case's layer, and what it is built with, each by its name."""
    kind = type(make())
    seen: list[dict[str, Any]] = []
    original, signature = kind.__init__, inspect.signature(kind)

    def noted(self: nn.Module, *given: Any, **options: Any) -> None:
        seen.append({**signature.bind(*given, **options).arguments})
        original(self, *given, **options)

    kind.__init__ = noted
    try:
        make()
    finally:
        kind.__init__ = original
    return kind, seen[0]


CALLS = _calls()
