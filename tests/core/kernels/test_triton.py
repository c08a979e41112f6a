import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stillpoint.core.kernels import (
    triton_activity,
    triton_channel_norm,
    triton_correlation,
    triton_framing,
    triton_mixture,
    triton_pool,
    triton_proximal,
    triton_quadratic,
    triton_translation,
)

CASES = Path(__file__).with_name("triton_cases.py")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def interpreted():
    """The cases' own words. The interpreter must be chosen before Triton is imported, hence another process."""
    done = subprocess.run(
        [sys.executable, str(CASES)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done


LAWS = ("blurs", "frames", "precisions", "choices", "shifts", "edges", "magnitudes", "correlations", "steps")


SAMPLING = ("mixtures", "frames_of_phases", "activities", "translations", "polynomials", "norms")


@pytest.mark.parametrize("law", [*LAWS, *SAMPLING])
def test_the_gpu_kernels_give_what_the_cpu_kernels_give(interpreted, law):
    assert f"{law} pass" in interpreted.stdout.splitlines(), interpreted.stderr


NUMBERS = ("channels", "height", "width", "height_out", "width_out", "extent", "count", "across", "taps", "filters")
KINDS = dict.fromkeys((*NUMBERS, "stride", "before", "size"), "i32") | {"momentum": "fp32", "phase": "*i64"}
KINDS |= dict.fromkeys(("weights", "coefficients", "pixels", "means", "tau", "pull", "to_taps", "edge"), "*fp32")
KINDS |= dict.fromkeys(("biases", "mean", "squares", "inverse", "drift", "product", "to_weights"), "*fp32")
KINDS |= {"row_from": "*i32", "column_from": "*i32", "row_weight": "*fp32", "column_weight": "*fp32"}
KINDS |= {"pixels": "*fp32", "ways": "*i32", "shrink": "*fp32", "threshold": "*fp32"}


def compiled(kernel, constants, dtype, capability=80):
    """Machine code for a compute capability, times ten; all that is not in KINDS is a map of `dtype`."""
    signature = {n: "constexpr" if n in constants else KINDS.get(n, f"*{dtype}") for n in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": False}).asm[
        "cubin"
    ]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_gpu_kernels_compile_to_machine_code_without_a_gpu(last, dtype):
    taps = {"LAST": last, "ROWS": 3, "COLUMNS": 3}
    pixels, channels = (4, 64) if last else (256, 1)
    measure = {**taps, "CRITERION": "l2", "PIXELS": pixels, "CHANNELS": channels}
    for kernel, constants in (
        (triton_pool._apply, {**taps, "HAS_PHASE": True, "BLOCK": 256}),
        *((triton_pool._measure, {**measure, "SCALED": again}) for again in (False, True)),
    ):
        assert compiled(kernel, constants, dtype)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_gpu_kernels_of_packets_and_codes_compile_without_a_gpu(rows, dtype):
    for kernel, constants in (
        (triton_correlation._correlate, {"INPUTS": 2, "ROWS": rows, "LANES": 16, "BLOCK": 128}),
        (triton_correlation._spread, {"INPUTS": 2, "ROWS": rows, "BLOCK": 128}),
        (triton_proximal._forward, {"BOTH": rows, "NONNEGATIVE": rows, "BLOCK": 1024}),
        (triton_proximal._backward, {"BOTH": rows, "BLOCK": 1024}),
    ):
        assert compiled(kernel, constants, dtype)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_gpu_kernels_of_mixtures_and_polynomials_compile_without_a_gpu(last, dtype):
    tile = {"LAST": last, "PIXELS": 16 if last else 512, "CHANNELS": 32 if last else 1}
    for kernel, constants in (
        (triton_mixture._mix, {"SHARED": last, "LAST": last, "BLOCK": 512}),
        (triton_mixture._spread, {"SHARED": not last, "LAST": last, "BLOCK": 512}),
        (triton_mixture._weigh, tile),
        (triton_quadratic._forward, {"LAST": last, "BLOCK": 1024}),
        (triton_quadratic._backward, tile),
    ):
        assert compiled(kernel, constants, dtype)


# every pair of the three: each of these takes ptxas for eleven kernels
@pytest.mark.parametrize(
    ("last", "dtype", "capability"),
    [(False, "fp32", 80), (True, "bf16", 80), (True, "fp32", 90), (False, "bf16", 90)],
)
def test_the_gpu_kernels_of_scores_weights_and_norms_compile_without_a_gpu(last, dtype, capability):
    tile = {"LAST": last, "PIXELS": 16 if last else 512, "CHANNELS": 32 if last else 1}
    by_pixel = {"LAST": last, "PIXELS": 16 if last else 128, "CHANNELS": 64 if last else 4}
    for kernel, constants in (
        (triton_framing._split, {"WRAPS": last, "LAST": last, "BLOCK": 512}),
        (triton_framing._join, {"WRAPS": True, "LAST": last, "BLOCK": 512}),
        (triton_activity._forward, tile),
        (triton_activity._backward, {"LAST": last, "BLOCK": 1024}),
        (triton_translation._judge, {"KEEP": True, **tile}),
        (triton_translation._edge, {"GIVEN": True, **tile}),
        (triton_translation._pull, tile),
        (triton_channel_norm._measure, by_pixel),
        (triton_channel_norm._apply, {"WHOLE": last, "LAST": last, "BLOCK": 512}),
        (triton_channel_norm._gather, by_pixel),
        (triton_channel_norm._spread, {"WHOLE": not last, **tile}),
    ):
        assert compiled(kernel, constants, dtype, capability)
