"""A wrong argument is one sentence, the same with the kernels and without them, and never a read beyond a tensor."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stillpoint.core import layers
from stillpoint.core.kernels import native
from stillpoint.core.layers.translation_invariant import Response

X = torch.linspace(-1, 1, 2 * 8 * 6 * 4).view(2, 8, 6, 4)
WHOLE = X.to(torch.int64)
ONE, PHASE = torch.ones(8), torch.tensor([1, 2])
FLOATING = r"a floating tensor \(B, C, H, W\) is needed, got torch.int64 of shape \(2, 8, 6, 4\)"
RANK = r"a tensor \(B, C, H, W\) is needed, got torch.float32 of shape \(8, 6, 4\)"
PLACE = "must be on the map's device cpu, got meta"


def _norm(x: Tensor = X, weight: Tensor = ONE, bias: Tensor = ONE, **options: Any) -> Tensor:
    return layers.channel_norm2d(x, weight, bias, **options)


def _moduli(x: Tensor = X, energy: Tensor = ONE, weight: Tensor = ONE, bias: Tensor = ONE, **options: Any) -> Tensor:
    return layers.modulus_batch_norm2d(x, energy, weight, bias, **options)


def _adaptive(x: Tensor = X, logits: Tensor | None = None, **options: Any) -> Tensor:
    given = torch.zeros(2, 9, 6, 4) if logits is None else logits
    return layers.adaptive_blur2d(x, given, **{"size": 3, **options})


def _translation(x: Tensor = X, weight: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    weight = torch.ones(8, 1, 3, 3) if weight is None else weight
    return layers.translation_invariant_downsample2d(
        x, weight, scale=torch.ones(8, 1, 1, 1) if scale is None else scale
    )


def _polynomial(x: Tensor = X, coefficients: Tensor | None = None, **options: Any) -> Tensor:
    return layers.polynomial2d(x, torch.ones(3) if coefficients is None else coefficients, **options)


def _codes(x: Tensor = X, weight: Tensor | None = None, **options: Any) -> Tensor:
    return layers.sparse_coding2d(x, torch.ones(5, 8, 3, 3) if weight is None else weight, **options)


def _response(images: int = 2) -> Response:
    return Response(X, X, torch.full((images, 8, 4), 0.25))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    # norms
    "norm, short weight": (lambda: _norm(weight=ONE[:2]), r"weight must be \(C,\) = \(8,\), got \(2,\)"),
    "norm, no weight": (lambda: _norm(weight=ONE[:0]), r"weight must be \(C,\) = \(8,\), got \(0,\)"),
    "norm, long bias": (lambda: _norm(bias=torch.ones(9)), r"bias must be \(C,\) = \(8,\), got \(9,\)"),
    "norm, square bias": (lambda: _norm(bias=ONE[None]), r"bias must be \(C,\) = \(8,\), got \(1, 8\)"),
    "norm, elsewhere": (lambda: _norm(weight=ONE.to("meta")), f"weight {PLACE}"),
    "norm, integers": (lambda: _norm(WHOLE), FLOATING),
    "norm, eps": (lambda: _norm(eps=-1.0), "eps must be a number of at least 0, got -1.0"),
    "norm, eps of a layer": (
        lambda: layers.ChannelNorm2d(8, eps=math.nan),
        "eps must be a number of at least 0, got nan",
    ),
    "norm, channels": (lambda: layers.ChannelNorm2d(0), "channels is 0; it must be at least 1"),
    "norm, half a channel": (lambda: layers.ChannelNorm2d(1.5), "channels is 1.5; it must be an integer"),
    "norm, other layer": (lambda: layers.ChannelNorm2d(32)(X), r"weight must be \(C,\) = \(8,\), got \(32,\)"),
    "moduli, energy": (lambda: _moduli(energy=ONE[:1]), r"running_energy must be \(C,\) = \(8,\), got \(1,\)"),
    "moduli, weight": (lambda: _moduli(weight=ONE[:1], training=True), r"weight must be \(C,\) = \(8,\), got \(1,\)"),
    "moduli, rank": (lambda: _moduli(X[0]), r"a floating tensor \(B, C, H, W\) is needed, got torch.float32"),
    "moduli, layer": (lambda: layers.ModulusBatchNorm2d(1)(X), r"running_energy must be \(C,\) = \(8,\), got \(1,\)"),
    "bias, layer": (lambda: layers.ModulusBias2d(8)(X[:, :1]), r"bias must be \(C,\) = \(1,\), got \(8,\)"),
    "modulus, integers": (
        lambda: layers.complex_modulus(torch.ones(1, 1, 2, 1, 1, dtype=torch.int64)),
        "the parts of complex maps must be floating, got torch.int64",
    ),
    # strides and phases
    "stride, huge": (lambda: layers.blur_pool2d(X, stride=2**31), "at most 4096, got 2147483648"),
    "stride, phases": (lambda: layers.choose_phase(X, stride=10**6), "a pair of them, at most 4096, got 1000000"),
    "stride, adaptive": (lambda: _adaptive(stride=2**40), "a pair of them, at most 4096"),
    "stride, float": (
        lambda: layers.polyphase_downsample2d(X, stride=2.0),
        "a positive integer or a pair of them, .* got 2.0",
    ),
    "stride, nothing": (lambda: layers.blur_pool1d(X[0], stride=None), "a positive integer or 1 of them, .* got None"),
    "pad_off": (lambda: layers.blur_pool2d(X, pad_off=2.0), "pad_off must be an integer, got 2.0"),
    "pad_off of a layer": (lambda: layers.BlurPool2d(pad_off=0.5), "pad_off must be an integer, got 0.5"),
    "phase, elsewhere": (lambda: layers.take_phase(X, PHASE.to("meta")), f"phase {PLACE}"),
    "phase, no tensor": (lambda: layers.take_phase(X, 1), r"phase must be a tensor \(B,\) int64, got 1"),
    "phase, no tensor to choose": (lambda: layers.polyphase_downsample2d(X, phase=1), "phase must be a tensor"),
    "phase, placed": (lambda: layers.place_phase(X, PHASE - 2), r"phase must lie between 0 and 3, got \[-1, 0\]"),
    "no pixels": (
        lambda: layers.choose_phase(X[:, :, :0]),
        r"a map without pixels has no phases, got shape \(2, 8, 0, 4\)",
    ),
    "components": (lambda: layers.polyphase_components(X[0]), RANK),
    "choice, rank": (lambda: layers.choose_phase(X[0]), RANK),
    "taken, rank": (lambda: layers.take_phase(X[0], PHASE), RANK),
    "placed, rank": (lambda: layers.place_phase(X[0], PHASE), RANK),
    "mixed, rank": (lambda: layers.mix_phases(X[0], torch.ones(2, 4)), r"a floating tensor \(B, C, H, W\) is needed"),
    "mixed integers": (lambda: layers.mix_phases(WHOLE, torch.ones(2, 4)), FLOATING),
    "mixed elsewhere": (lambda: layers.mix_phases(X, torch.ones(2, 4, device="meta")), f"weights {PLACE}"),
    "spread elsewhere": (lambda: layers.spread_phases(X, torch.ones(2, 4, device="meta")), f"weights {PLACE}"),
    "size of one axis": (lambda: layers.PolyphaseUpsample2d()(X, PHASE, (12,)), r"size must be \(H, W\), got \(12,\)"),
    "soft scores": (
        lambda: layers.phase_weights(ONE, tau=1.0),
        r"scores must be \(B, K\), one for each phase, got \(8,\)",
    ),
    "soft tau": (
        lambda: layers.phase_weights(X[0, 0], tau=ONE),
        r"tau must be a number or a tensor of one element, got \(8,\)",
    ),
    "scorer, rank": (lambda: layers.ConvScorer(8)(X[0]), r"a batch of maps \(B, C, H, W\) has four axes, got 3"),
    "scorer, width": (
        lambda: layers.ConvScorer(8, hidden=1.5),
        "hidden must be a positive number of channels, got 1.5",
    ),
    "scorer, reduction": (lambda: layers.LearnablePolyphaseDownsample2d(8, reduction=1.5), "positive integer, got 1.5"),
    # filters and pools
    "adaptive, rank": (lambda: _adaptive(X[0]), r"a floating tensor \(B, C, H, W\) is needed"),
    "adaptive, integers": (lambda: _adaptive(WHOLE), FLOATING),
    "adaptive, logits": (
        lambda: _adaptive(logits=torch.zeros(9)),
        r"logits must be \(B, G \* k \* k, h, w\).* got \(9,\)",
    ),
    "adaptive, whole": (
        lambda: _adaptive(logits=torch.zeros(2, 9, 6, 4, dtype=torch.int64)),
        "logits must be floating, got torch.int64",
    ),
    "adaptive, elsewhere": (lambda: _adaptive(logits=torch.zeros(2, 9, 6, 4, device="meta")), f"logits {PLACE}"),
    "adaptive, no channel": (lambda: _adaptive(X[:, :0]), r"logits must be .* for an input of shape \(2, 0, 6, 4\)"),
    "adaptive, groups": (lambda: layers.AdaptiveBlur2d(8, groups=2.0), "groups must divide the 8 channels, got 2.0"),
    "pool, small": (
        lambda: layers.dense_max_pool2d(X, kernel_size=7),
        "a map .* of at least 7x7 pixels for margin 'none'",
    ),
    "pool, rank": (lambda: layers.dense_max_pool2d(X[None]), r"max-pooling needs a map .* got shape \(1, 2, 8, 6, 4\)"),
    "pool, float": (lambda: layers.dense_max_pool2d(X, kernel_size=2.0), "a positive integer, and odd .* got 2.0"),
    "pool, padding": (lambda: layers.MaxBlurPool2d(3, max_padding=2), "at most half of kernel_size 3, got 2"),
    "pads, axes": (lambda: layers.pad(ONE, [(1, 1)] * 2, padding="zeros"), "in whole pixels for at most 1 axes"),
    "pads, float": (lambda: layers.pad(ONE, [(1.5, 1)], padding="zeros"), r"in whole pixels .* got \[\(1.5, 1\)\]"),
    "pads, one end": (
        lambda: layers.pad(ONE, [(1,)], padding="zeros"),
        r"\(before, after\) in whole pixels .* got \[\(1,\)\]",
    ),
    "upsampling": (lambda: layers.ideal_upsample2d(X, factor=1.5), "factor must be a positive integer, got 1.5"),
    "low-pass layer": (lambda: layers.IdealLowPass2d(factor=1.5), "factor must be a positive integer, got 1.5"),
    "band": (
        lambda: layers.band_limit2d(X, fixed_size=1.5),
        "fixed_size must be the side of a map in pixels, .* got 1.5",
    ),
    # polynomials
    "polynomial, cutoff": (lambda: _polynomial(form="filtered", cutoff=5.0), r"Nyquist frequency in \(0, 1\], got 5.0"),
    "polynomial, rule": (
        lambda: _polynomial(form="filtered", rule="nonsense"),
        "one of exact, authors, got 'nonsense'",
    ),
    "polynomial, size": (lambda: _polynomial(form="filtered", fixed_size=-1), "fixed_size must be the side .* got -1"),
    "polynomial, integers": (lambda: _polynomial(WHOLE), FLOATING),
    "polynomial, scale": (
        lambda: _polynomial(in_scale=ONE),
        r"in_scale must be a number or a tensor of one element, got \(8,\)",
    ),
    "polynomial, elsewhere": (lambda: _polynomial(coefficients=torch.ones(3, device="meta")), f"coefficients {PLACE}"),
    "activation, cutoff": (
        lambda: layers.PolynomialActivation2d(8, cutoff=0.0),
        r"Nyquist frequency in \(0, 1\], got 0.0",
    ),
    "activation, scale": (
        lambda: layers.PolynomialActivation2d(8, scale=(1.0,)),
        r"a number or \(in_scale, out_scale\)",
    ),
    # translation invariant sampling
    "translation, rank": (lambda: _translation(X[0]), r"a floating tensor \(B, C, H, W\) is needed"),
    "translation, weight": (lambda: _translation(weight=ONE[0]), r"needs a weight \(8, 1, k, k\) .* got \(\) and"),
    "translation, no taps": (lambda: _translation(weight=torch.ones(8, 1, 0, 0)), r"got \(8, 1, 0, 0\) and"),
    "translation, elsewhere": (lambda: _translation(scale=torch.ones(8, 1, 1, 1, device="meta")), f"scale {PLACE}"),
    "losses, none": (lambda: layers.undoing_losses([], shifts=[]), "the response of at least one layer, got none"),
    "penalty, none": (lambda: layers.evenness_penalty([]), "the response of at least one layer, got none"),
    "penalty, images": (
        lambda: layers.evenness_penalty([_response(), _response(3)]),
        r"responses must be of the same images, got \[2, 3\]",
    ),
    "shift": (
        lambda: layers.shift_features(X, shift=(1.5, 0)),
        r"shift must be \(rows, columns\) in whole pixels, got \(1.5, 0\)",
    ),
    "shift of a loss": (lambda: layers.undoing_losses([_response()], shifts=[(1,)]), r"in whole pixels, got \(1,\)"),
    # dictionaries
    "no atoms": (lambda: _codes(weight=torch.ones(0, 8, 3, 3)), r"a dictionary has atoms .* got \(0, 8, 3, 3\)"),
    "no taps": (lambda: _codes(weight=torch.ones(5, 8, 0, 3)), r"a dictionary has atoms .* got \(5, 8, 0, 3\)"),
    "no atoms for rows": (
        lambda: layers.sparse_coding1d(X, torch.ones(0, 4)),
        r"a dictionary has atoms .* got \(0, 4\)",
    ),
    "step": (lambda: _codes(step=torch.ones(5)), r"step must be a tensor without axes, got shape \(5,\)"),
    "step, no tensor": (lambda: _codes(step=0.5), "step must be a tensor without axes, got 0.5"),
    "half a stride": (lambda: _codes(stride=1.5), "stride is 1.5; it must be an integer"),
    "half an iteration": (lambda: _codes(iterations=1.5), "iterations is 1.5; it must be an integer"),
    # wavelets
    "packets, no pixels": (
        lambda: layers.wavelet_packets2d(X[:, :, :0], padding="circular"),
        "an image needs at least one pixel along each axis, got 0",
    ),
    "packets, integers": (lambda: layers.wavelet_packets2d(WHOLE), "images must be floating, got torch.int64"),
    "packets, depth": (lambda: layers.wavelet_packets2d(X, depth=2.0), "depth must be an integer from 1 to 8, got 2.0"),
    "packets, stride": (
        lambda: layers.WaveletPackets2d(stride=2.0),
        "stride must be one of 1, 2, 4 at depth 2, got 2.0",
    ),
    "packets, maps": (lambda: layers.WaveletPackets2d(maps=(1.0,)), r"distinct numbers from 0 to 31 .* got \[1.0\]"),
    "halves, maps": (lambda: layers.PacketHalves2d(maps=(1.5,)), r"maps must be numbers of packets, got \[1.5\]"),
    "halves, depth": (lambda: layers.PacketHalves2d(depth=10**6), "depth must be an integer from 1 to 8, got 1000000"),
    "window, every": (lambda: _window(every=0), "a window needs every of at least 1"),
    "window, start": (lambda: _window(start=[-1, 0]), "a window needs every of at least 1, start"),
    "window, empty": (lambda: _window(size=[0, 1]), "a window needs every of at least 1, start"),
    "window, one axis": (lambda: _window(size=[1]), "a window needs every of at least 1, start"),
    "window, beyond": (
        lambda: _window(start=[2, 0], size=[2, 1]),
        r"from \[2, 0\] of size \[2, 1\] is not within a grid of \[3, 2\]",
    ),
    "scattering, depth": (lambda: layers.Scattering2d(10**6), "depth must be an integer from 1 to 8, got 1000000"),
    "scattering, stride": (lambda: layers.Scattering2d(stride=4.0), "a power of two of at least 4, got 4.0"),
    "scattering, integers": (lambda: layers.scattering2d(WHOLE), FLOATING),
}


def _window(**options: Any) -> Tensor:
    return layers.WaveletPackets2d(padding="circular")(X, **options)


@pytest.fixture(params=[True, False], ids=["kernels", "plain"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    if not request.param:
        monkeypatch.setenv("STILLPOINT_KERNELS", "0")
        native.library.cache_clear()
    yield request.param
    if not request.param:
        monkeypatch.delenv("STILLPOINT_KERNELS")
        native.library.cache_clear()


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_wrong_argument_is_a_sentence_with_and_without_kernels(kernels: bool, case: str) -> None:
    call, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        call()


def test_maps_without_channels_are_filtered_and_chosen(kernels: bool) -> None:
    none = X[:, :0].requires_grad_()
    for padding in layers.PADDINGS:
        assert layers.blur_pool2d(none, size=3, padding=padding).shape == (2, 0, 3, 2)
    for criterion in layers.CRITERIA:
        assert layers.choose_phase(none, criterion=criterion).tolist() == [0, 0]
    packets = layers.wavelet_packets2d(torch.zeros(0, 3, 32, 24), maps=(1, 17))
    assert packets.shape == (0, 12, 16, 12)


def test_true_is_a_stride_of_one(kernels: bool) -> None:
    assert torch.equal(layers.blur_pool2d(X, stride=True), layers.blur_pool2d(X, stride=1))
