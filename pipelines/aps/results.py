"""What is shown of the classifiers, and what of the U-Nets."""

from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.reporting.tables import Metric
from stillpoint.pipelines.results import Form, consistency_accuracy, learning_curves

U_NETS = (
    Metric("reconstruction_psnr", "PSNR", unit="dB"),
    Metric("reconstruction_ssim", "SSIM", unit="1"),
    Metric("reconstruction_nmse", "NMSE", unit="1", better="lower"),
    Metric("equivariance_psnr", "PSNR of shifted against shifting", unit="dB"),
    Metric("equivariance_ssim", "SSIM of shifted against shifting", unit="1"),
    Metric("equivariance_nmse", "NMSE of shifted against shifting", unit="1", better="lower"),
    Metric("equivariance_psnr_change", "change of the PSNR by a shift", unit="dB", better="lower"),
    Metric("equivariance_half_turn_psnr", "the same PSNR, half-turned images", unit="dB"),
    Metric("equivariance_noisy_psnr", "the same PSNR, noisy images", unit="dB"),
    Metric("equivariance_white_noise_psnr", "the same PSNR, white noise", unit="dB"),
)


def form(config: RunConfig) -> Form:
    """By what the recipe's networks give: classes or images."""
    if not info(config.data.name).pairs:
        return Form()
    return Form(
        metrics=U_NETS,
        axes=("reconstruction_psnr", "equivariance_psnr"),
        figures={"equivariance_quality": consistency_accuracy, "learning_curves": learning_curves},
    )
