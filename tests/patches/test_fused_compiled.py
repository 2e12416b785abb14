"""The fused kernels compile for GPUs that are not here, without spills and within shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patches.kernels.tiles import LARGE_BYTES, SMALL_BYTES

triton = pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
SHARED_BYTES = {80: SMALL_BYTES, 90: LARGE_BYTES}
"""What one block of threads may have; compute capability 8.6 and 8.9 have less than 8.0, and must do too."""


def has_compiler() -> bool:
    """Whether triton brought NVIDIA's assembler and its reader."""
    try:
        return all(
            Path(tool.path).exists() for tool in (triton.knobs.nvidia.ptxas, triton.knobs.nvidia.cuobjdump)
        )
    except (AttributeError, RuntimeError):
        return False


@pytest.mark.thorough
@pytest.mark.skipif(not has_compiler(), reason="this triton has no ptxas or cuobjdump")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dim", [64, 128])
def test_no_kernel_spills(capability, dim):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.patches.compile_fused", str(capability), str(dim), "bf16"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) == {"forward", "d_query", "d_key", "d_sink"}
    for name, kernel in report.items():
        assert kernel["spilled_bytes"] == 0, (name, kernel)
        assert kernel["shared_bytes"] <= SHARED_BYTES[capability], (name, kernel)
        # The sinks are too few for the wide instructions of Hopper.
        assert capability == 80 or name == "d_sink" or kernel["wgmma"], (name, kernel)
