"""Layers: one concept a file, a pure function and a thin Module of the same name."""

from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d, adaptive_blur2d
from stillpoint.core.layers.blur import (
    BlurPool1d,
    BlurPool2d,
    BlurPool3d,
    MaxBlurPool2d,
    binomial_kernel,
    binomial_taps,
    blur_pool1d,
    blur_pool2d,
    blur_pool3d,
)
from stillpoint.core.layers.channel_norm import ChannelNorm2d, channel_norm2d
from stillpoint.core.layers.complex_modulus import (
    ComplexModulus,
    ModulusBatchNorm2d,
    ModulusBias2d,
    complex_modulus,
    modulus_batch_norm2d,
)
from stillpoint.core.layers.conv_norm_act import conv_norm_act
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d, dense_max_pool2d
from stillpoint.core.layers.downsample import (
    Downsample,
    DownsampleFactory,
    Grid,
    SoftGrid,
    Subsample,
    downsample_factory,
    sample_at,
)
from stillpoint.core.layers.gumbel import phase_weights
from stillpoint.core.layers.learnable_polyphase import LearnablePolyphaseDownsample2d
from stillpoint.core.layers.learnable_upsample import LearnablePolyphaseUpsample2d
from stillpoint.core.layers.lowpass import IdealLowPass2d, ideal_lowpass2d
from stillpoint.core.layers.norm_act import norm_act
from stillpoint.core.layers.own_pools import AveragePool2d, MaxPool2d
from stillpoint.core.layers.packet_halves import PacketHalves2d
from stillpoint.core.layers.padding import PADDINGS, PaddedConv2d, pad
from stillpoint.core.layers.phase_scorers import (
    SCORERS,
    AttentionScorer,
    ConvScorer,
    GraphScorer,
    PerceptronScorer,
    phase_scorer,
)
from stillpoint.core.layers.phases import (
    CRITERIA,
    choose_phase,
    mix_phases,
    place_phase,
    polyphase_components,
    spread_phases,
    take_phase,
)
from stillpoint.core.layers.pointwise import PointwiseConv2d
from stillpoint.core.layers.polynomial import PolynomialActivation2d, polynomial2d
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d, polyphase_downsample2d
from stillpoint.core.layers.polyphase_upsample import PolyphaseUpsample2d, polyphase_upsample2d
from stillpoint.core.layers.resampling import band_limit2d, ideal_upsample2d
from stillpoint.core.layers.scattering import Scattering2d, scattering2d
from stillpoint.core.layers.sparse_coding import SparseCoding1d, SparseCoding2d, sparse_coding1d, sparse_coding2d
from stillpoint.core.layers.translation_invariant import (
    TranslationInvariantDownsample2d,
    translation_invariant_downsample2d,
)
from stillpoint.core.layers.translation_losses import evenness_penalty, shift_features, undoing_losses
from stillpoint.core.layers.wavelet_packets import WaveletPackets2d, wavelet_packets2d
from stillpoint.core.layers.wavelet_twin import TwinStem, WaveletMixing2d, WaveletTwin2d

__all__ = [
    "CRITERIA",
    "PADDINGS",
    "SCORERS",
    "AdaptiveBlur2d",
    "AttentionScorer",
    "AveragePool2d",
    "BlurPool1d",
    "BlurPool2d",
    "BlurPool3d",
    "ChannelNorm2d",
    "ComplexModulus",
    "ConvScorer",
    "DenseMaxPool2d",
    "Downsample",
    "DownsampleFactory",
    "GraphScorer",
    "Grid",
    "IdealLowPass2d",
    "LearnablePolyphaseDownsample2d",
    "LearnablePolyphaseUpsample2d",
    "MaxBlurPool2d",
    "MaxPool2d",
    "ModulusBatchNorm2d",
    "ModulusBias2d",
    "PacketHalves2d",
    "PaddedConv2d",
    "PerceptronScorer",
    "PointwiseConv2d",
    "PolynomialActivation2d",
    "PolyphaseDownsample2d",
    "PolyphaseUpsample2d",
    "Scattering2d",
    "SoftGrid",
    "SparseCoding1d",
    "SparseCoding2d",
    "Subsample",
    "TranslationInvariantDownsample2d",
    "TwinStem",
    "WaveletMixing2d",
    "WaveletPackets2d",
    "WaveletTwin2d",
    "adaptive_blur2d",
    "band_limit2d",
    "binomial_kernel",
    "binomial_taps",
    "blur_pool1d",
    "blur_pool2d",
    "blur_pool3d",
    "channel_norm2d",
    "choose_phase",
    "complex_modulus",
    "conv_norm_act",
    "dense_max_pool2d",
    "downsample_factory",
    "evenness_penalty",
    "ideal_lowpass2d",
    "ideal_upsample2d",
    "mix_phases",
    "modulus_batch_norm2d",
    "norm_act",
    "pad",
    "phase_scorer",
    "phase_weights",
    "place_phase",
    "polynomial2d",
    "polyphase_components",
    "polyphase_downsample2d",
    "polyphase_upsample2d",
    "sample_at",
    "scattering2d",
    "shift_features",
    "sparse_coding1d",
    "sparse_coding2d",
    "spread_phases",
    "take_phase",
    "translation_invariant_downsample2d",
    "undoing_losses",
    "wavelet_packets2d",
]
