"""The kernels compile for GPUs that this machine need not have, and keep their numbers in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patches.kernels import language

SHARED_BYTES = 99 * 1024
"""What a block may use on the smallest GPU that FlashAttention-2 runs on (compute capability 8.6)."""


@pytest.mark.slow
@pytest.mark.skipif(language.missing() is not None, reason=f"kernels: {language.missing()}")
def test_no_spills_and_little_shared_memory_on_ampere_and_hopper():
    script = Path(__file__).with_name("compile_sinks.py")
    options = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run([sys.executable, str(script)], env=options, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    kernels = json.loads(said.stdout)
    assert len(kernels) == 12
    for name, numbers in kernels.items():
        assert numbers["spilled"] == 0 and numbers["shared"] <= SHARED_BYTES, f"{name}: {numbers}"
