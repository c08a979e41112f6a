import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from core.kernels import triton_pool

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


@pytest.mark.parametrize("law", ["blurs", "precisions", "choices", "shifts", "edges"])
def test_the_gpu_kernels_give_what_the_cpu_kernels_give(interpreted, law):
    assert f"{law} pass" in interpreted.stdout.splitlines(), interpreted.stderr


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_gpu_kernels_compile_to_machine_code_without_a_gpu(last, dtype):
    taps = {"LAST": last, "ROWS": 3, "COLUMNS": 3}
    pixels, channels = (4, 64) if last else (256, 1)
    for kernel, constants in (
        (triton_pool._apply, {**taps, "HAS_PHASE": True, "BLOCK": 256}),
        (triton_pool._measure, {**taps, "CRITERION": "l2", "PIXELS": pixels, "CHANNELS": channels}),
    ):
        pointers = {"x": f"*{dtype}", "y": f"*{dtype}", "pixels": "*fp32", "phase": "*i64"}
        pointers |= {f"{axis}_from": "*i32" for axis in ("row", "column")}
        pointers |= {f"{axis}_weight": "*fp32" for axis in ("row", "column")}
        signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in kernel.arg_names}
        source = ASTSource(kernel, signature, constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": False})
        assert built.asm["cubin"]
