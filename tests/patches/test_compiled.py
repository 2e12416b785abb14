"""The kernels compile for GPUs that are not here, without spills and within shared memory."""

import pytest

from patches.kernels.tiles import LARGE_BYTES, SMALL_BYTES
from tests.patches.offline import CAPABILITIES, needs_compiler, report_of

SHARED_BYTES = {80: SMALL_BYTES, 90: LARGE_BYTES}
"""What one block of threads may have; compute capability 8.6 and 8.9 have less than 8.0, and must do too."""


@pytest.mark.thorough
@needs_compiler
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_fused_kernels(capability, dim):
    report = report_of("compile_fused", capability, dim, "bf16")
    assert set(report) == {"forward", "d_query", "d_key", "d_sink"}
    for name, kernel in report.items():
        assert kernel["spilled_bytes"] == 0, (name, kernel)
        assert kernel["shared_bytes"] <= SHARED_BYTES[capability], (name, kernel)
        # The sinks are too few for the wide instructions of Hopper, and so are the keys of a tile at 256.
        narrow = name == "d_sink" or (name, dim) == ("d_key", 256)
        assert capability == 80 or narrow or kernel["wgmma"], (name, kernel)


@pytest.mark.thorough
@needs_compiler
@pytest.mark.parametrize("script,count", [("compile_sinks", 12), ("compile_decode", 14)])
def test_sink_and_decode_kernels(script, count):
    report = report_of(script)
    assert len(report) == count
    for name, kernel in report.items():
        assert kernel["spilled_bytes"] == 0 and kernel["shared_bytes"] <= SMALL_BYTES, f"{name}: {kernel}"


@pytest.mark.thorough
@needs_compiler
def test_the_kernel_for_codes():
    report = report_of("compile_quantized")
    assert len(report) == 22
    for name, kernel in report.items():
        assert kernel["spilled_bytes"] == 0 and kernel["shared_bytes"] <= SMALL_BYTES, f"{name}: {kernel}"
