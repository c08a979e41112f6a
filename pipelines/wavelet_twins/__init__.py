"""Wavelet twins: an early layer made of complex wavelet packets, and what its modulus does for shift invariance."""

from stillpoint.pipelines.wavelet_twins.catalogue import configs

__all__ = ["configs"]
