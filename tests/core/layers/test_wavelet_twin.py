"""The twin of a first layer against dense and grouped convolutions, its packings, its crops."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stillpoint.core.layers.packet_halves import PacketHalves2d
from stillpoint.core.layers.wavelet_packets import WaveletPackets2d, wavelet_packets2d
from stillpoint.core.layers.wavelet_packings import ALEXNET, RESNET, RESNET_EXCLUDING, Packing
from stillpoint.core.layers.wavelet_twin import TwinStem, WaveletMixing2d, WaveletTwin2d, centre_crop

SMALL = Packing(depth=1, maps=(1, 2, 5, 6, 3), inputs=(4, 1), outputs=(4, 2), groups=(2, 1))


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixing(packing: Packing = SMALL, channels: int = 3, stride: int = 2, **options) -> WaveletMixing2d:
    torch.manual_seed(0)
    layer = WaveletMixing2d(channels, packing, stride=stride, **options).double()
    # double() keeps filters rounded to single precision; these are exact
    layer.packets = PacketHalves2d(
        packing.depth, stride, maps=layer.packets.maps, part=layer.packets.part, dtype=torch.float64
    )
    return layer


def made(packing: Packing = SMALL, *, subsample: int = 1, bias: bool = True, **options) -> WaveletTwin2d:
    wavelet = mixing(packing, bias=bias, **options)
    free = nn.Conv2d(3, 5, 7, stride=wavelet.packets.stride, padding=3).double()
    return WaveletTwin2d(free, wavelet, subsample=subsample)


@pytest.mark.parametrize("packing", [SMALL, RESNET, RESNET_EXCLUDING])
def test_mixing_is_a_grouped_convolution_of_each_section(packing: Packing) -> None:
    layer, x = mixing(packing, part="complex", bias=True), image(2, 3, 13, 10)
    grey = (x * layer.colour.view(1, 3, 1, 1)).sum(1, keepdim=True)
    maps = wavelet_packets2d(grey, depth=packing.depth, stride=2).unflatten(1, (-1, 2))[:, list(packing.maps)]
    parts = []
    for part in range(2):
        sections, start = [], 0
        for weight, bias, n, groups in zip(layer.mixing, layer.biases, packing.inputs, packing.groups, strict=True):
            section = maps[:, start : start + n, part]
            sections.append(F.conv2d(section, weight[:, :, None, None], bias, groups=groups))
            start += n
        parts.append(torch.cat(sections, 1))
    torch.testing.assert_close(layer(x), torch.stack(parts, 2))


def test_without_luminance_colours_are_mixed_after_the_packets() -> None:
    layer, x = mixing(luminance=False, bias=True), image(2, 3, 12, 12)
    want = torch.zeros(())
    for colour in range(3):
        single = mixing(channels=1, bias=True)
        single.load_state_dict({**layer.state_dict(), "colour": torch.ones(1, dtype=torch.float64)})
        want = want + layer.colour[:, colour][:, None, None, None] * single(x[:, colour : colour + 1])
    torch.testing.assert_close(layer(x), want)


@pytest.mark.parametrize("luminance", [True, False])
@pytest.mark.parametrize("part", ["real", "complex"])
def test_the_resulting_kernel_is_the_layer_as_one_convolution(luminance: bool, part: str) -> None:
    twin, size = made(luminance=luminance, part=part), 26
    x = image(2, 3, size, size)
    kernel, before = twin.resulting_kernel(size), twin.wavelet.packets.before
    assert kernel.shape[-1] == 12
    whole = F.conv2d(F.pad(x, [before] * 4), kernel, stride=2)
    got = twin(x)
    bias = torch.zeros(kernel.shape[0], dtype=torch.float64)
    wavelet_bias = torch.cat(list(twin.wavelet.biases))
    if not luminance:
        wavelet_bias = wavelet_bias * twin.wavelet.colour.sum(1)
    bias[:5], bias[5:] = twin.free.bias, wavelet_bias.repeat_interleave(2 if part == "complex" else 1)
    torch.testing.assert_close(got, centre_crop(whole, got.shape[-2:]) + bias[:, None, None])


def test_a_framed_kernel_has_the_support_in_its_middle() -> None:
    twin = made()
    framed = twin.resulting_kernel(26, size=20)
    torch.testing.assert_close(framed[..., 4:16, 4:16], twin.resulting_kernel(26))
    assert framed.square().sum() == framed[..., 4:16, 4:16].square().sum()
    with pytest.raises(ValueError, match="at least the support 12, got 11"):
        twin.resulting_kernel(26, size=11)


@settings(max_examples=25, deadline=None)
@given(size=st.tuples(st.integers(8, 24), st.integers(8, 24)), subsample=st.sampled_from([2, 3, 4]))
def test_subsampled_coefficients_are_those_of_the_full_grid(size: tuple[int, int], subsample: int) -> None:
    twin, x = made(part="complex", subsample=subsample), image(1, 3, *size)
    free, coarse = twin.halves(x)
    _, fine = twin.halves(x, every=1)
    assert free.shape[-2:] == fine.shape[-2:]
    torch.testing.assert_close(coarse, fine[..., ::subsample, ::subsample])


def test_both_halves_are_cropped_about_the_centre() -> None:
    wavelet = mixing()
    for kernel, padding in ((7, 3), (3, 0), (7, 6)):
        twin = WaveletTwin2d(nn.Conv2d(3, 5, kernel, stride=2, padding=padding).double(), wavelet)
        x = image(1, 3, 17, 22)
        free, packets, y = twin.free(x), wavelet(x)[:, :, 0], twin(x)
        size = [min(a, b) for a, b in zip(free.shape[-2:], packets.shape[-2:], strict=True)]
        assert list(y.shape[-2:]) == size
        torch.testing.assert_close(y, torch.cat([centre_crop(free, size), centre_crop(packets, size)], 1))


def test_a_half_pixel_of_crop_goes_to_the_even_offset() -> None:
    x = torch.arange(7.0).expand(1, 1, 7, 7)
    assert centre_crop(x, (6, 6))[0, 0, 0, 0] == 0
    assert centre_crop(x, (4, 4))[0, 0, 0, 0] == 2
    assert centre_crop(x, (2, 2))[0, 0, 0, 0] == 2


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_a_crop_is_centred_as_python_rounds(size: int, less: int) -> None:
    inner = max(size - less, 0)
    first = round((size - inner) / 2)
    assert centre_crop(torch.arange(size)[:, None], (inner, 1))[:, 0].tolist() == list(range(first, first + inner))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("part", ["real", "complex"])
def test_a_stem_is_traced_for_other_batches(part: str) -> None:
    first = made(part=part, subsample=2 if part == "complex" else 1)
    if part == "real":
        stem = TwinStem(first, joint=nn.MaxPool2d(2))
    else:
        stem = TwinStem(first, low=nn.MaxPool2d(2), high=nn.Flatten(1, 2))
    traced = torch.jit.trace(stem, image(2, 3, 13, 17), check_trace=False)
    x = image(3, 3, 13, 17, seed=1)
    torch.testing.assert_close(traced(x), stem(x))


def test_nonsquare_images_are_right_unless_the_authors_scrambling_is_asked_for() -> None:
    plain, scrambled = mixing(), mixing(scramble_nonsquare=True)
    wide, square = image(1, 3, 12, 20), image(1, 3, 12, 12)
    torch.testing.assert_close(plain(square), scrambled(square))
    # the right answer on a wide image agrees with the one on the square image it begins with, away from the border
    padded = F.pad(wide, [0, 0, 0, 8])
    torch.testing.assert_close(plain(wide), plain(padded)[..., : plain(wide).shape[-2], :])
    got = scrambled(wide)
    assert got.shape[-2:] == plain(wide).shape[-2:][::-1]
    torch.testing.assert_close(got.flatten(3), plain(wide).flatten(3))


def test_a_stem_joins_or_splits_the_activations() -> None:
    x = image(1, 3, 20, 20)
    joint = TwinStem(made(), joint=nn.ReLU())
    split = TwinStem(made(), low=nn.ReLU(), high=nn.ReLU())
    torch.testing.assert_close(joint(x), split(x))
    cropped = TwinStem(made(), low=nn.MaxPool2d(2), high=nn.MaxPool2d(2, padding=1))
    assert cropped(x).shape == (1, 11, 4, 4)
    with pytest.raises(ValueError, match="either joint, or both low and high"):
        TwinStem(made(), joint=nn.ReLU(), low=nn.ReLU(), high=nn.ReLU())


def test_training_reaches_every_parameter() -> None:
    for luminance in (True, False):
        layer = mixing(luminance=luminance, part="complex", bias=True)
        layer(image(1, 3, 12, 12)).square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None and (parameter.grad != 0).all(), name


def test_weights_begin_as_a_convolutions_and_colours_as_given() -> None:
    layer = WaveletMixing2d(3, RESNET, stride=2, colours=(1.0, 2.0, 3.0))
    assert layer.colour.tolist() == [1, 2, 3]
    assert all(w.abs().max() <= w.shape[1] ** -0.5 for w in layer.mixing)
    assert WaveletMixing2d(1, RESNET, stride=2).colour.tolist() == [3]


@pytest.mark.parametrize(
    ("packing", "kept", "excluded"), [(ALEXNET, 94, {0, 64}), (RESNET, 30, {0, 16}), (RESNET_EXCLUDING, 16, {0, 16})]
)
def test_packings_are_the_papers(packing: Packing, kept: int, excluded: set[int]) -> None:
    assert len(set(packing.maps)) == len(packing.maps) == kept
    assert not excluded & set(packing.maps)
    kernels = WaveletPackets2d(packing.depth, 1, dtype=torch.float64).kernels()
    # what a correlation lets pass is the inverse transform of its kernel
    spectra = torch.fft.ifft2(torch.complex(kernels[:, 0], kernels[:, 1]), (128, 128)).abs().square()
    frequency = torch.fft.fftfreq(128, dtype=torch.float64)
    mean = (spectra.sum(1) * frequency).sum(1) / spectra.sum((1, 2))
    assert (mean[list(packing.maps)] < 0).all()
    if packing is ALEXNET:  # and no map whose first stage is high-pass along both axes
        assert not set(packing.maps) & {*range(48, 64), *range(112, 128)}
    if packing is RESNET_EXCLUDING:
        assert mean[1] == pytest.approx(-0.19, abs=0.01)
        place = spectra.flatten(1).argmax(1)
        peak = torch.maximum(frequency[place // 128].abs(), frequency[place % 128].abs())
        near_nyquist = {q for q in RESNET.maps if peak[q] > 0.4}
        assert set(RESNET.maps) - set(packing.maps) == near_nyquist  # measured: 0.42, the others at most 0.33


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"inputs": (4, 2)}, r"inputs \(4, 2\) must sum to the number of maps, 5"),
        ({"outputs": (4,)}, "one entry per section"),
        ({"groups": (3, 1)}, "groups must divide the 4 maps and the 4 outputs of a section, got 3"),
    ],
)
def test_impossible_packings_are_refused(options: dict, sentence: str) -> None:
    fields = {"depth": 1, "maps": SMALL.maps, "inputs": (4, 1), "outputs": (4, 2), "groups": (2, 1), **options}
    with pytest.raises(ValueError, match=sentence):
        Packing(**fields)


def test_wrong_channels_and_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="the layer's 3 channels, got 1"):
        mixing()(image(1, 1, 12, 12))
    with pytest.raises(ValueError, match="a weight for each of 1 channels"):
        WaveletMixing2d(1, SMALL, stride=2, colours=(1.0, 2.0, 3.0))
