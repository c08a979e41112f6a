"""Tables and figures of the classifiers and of the U-Nets."""

from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.reporting.columns import Column
from stillpoint.pipelines.results import Figure, Shown, consistency_accuracy, learning_curves

U_NETS = (
    Column("reconstruction_psnr", "PSNR", unit="dB"),
    Column("reconstruction_ssim", "SSIM", unit="1"),
    Column("reconstruction_nmse", "NMSE", unit="1", better="lower"),
    Column("equivariance_psnr", "PSNR of shifted against shifting", unit="dB"),
    Column("equivariance_ssim", "SSIM of shifted against shifting", unit="1"),
    Column("equivariance_nmse", "NMSE of shifted against shifting", unit="1", better="lower"),
    Column("equivariance_psnr_change", "change of the PSNR by a shift", unit="dB", better="lower"),
    Column("equivariance_half_turn_psnr", "the same PSNR, half-turned images", unit="dB"),
    Column("equivariance_noisy_psnr", "the same PSNR, noisy images", unit="dB"),
    Column("equivariance_white_noise_psnr", "the same PSNR, white noise", unit="dB"),
)


def shown(config: RunConfig) -> Shown:
    """The columns, axes and figures, which depend on what the recipe's networks return: classes or images."""
    if not info(config.data.name).pairs:
        return Shown()
    return Shown(
        # core's columns are for classifiers
        columns=U_NETS,
        axes=("reconstruction_psnr", "equivariance_psnr"),
        figures={"equivariance_quality": Figure(consistency_accuracy), "learning_curves": Figure(learning_curves)},
    )
