"""Kernels compiled for GPUs that need not be there, and what the assembler says of each.

Triton's interpreter, once asked for, cannot be left again: what compiles is a script in a process of its own.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from patches.kernels import language

ROOT = Path(__file__).parents[2]
CAPABILITIES = (80, 90)
"""A100 and H100."""


def missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    if language.missing() is not None:
        return language.missing()
    from triton import knobs

    try:
        tools = (knobs.nvidia.ptxas.path, knobs.nvidia.cuobjdump.path)
    except (AttributeError, RuntimeError) as error:
        return str(error)
    return next((f"there is no {tool}" for tool in tools if not Path(tool).exists()), None)


needs_compiler = pytest.mark.skipif(missing() is not None, reason=f"compiler: {missing()}")


def report_of(module: str, *arguments: object) -> dict[str, dict[str, int]]:
    """What a script of this folder prints about its kernels."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", f"tests.patches.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compile_kernel(
    kernel,
    capability: int,
    types: Mapping[str, str],
    constants: Mapping[str, object],
    aligned: Collection[str],
    options: Mapping[str, int],
) -> dict[str, int]:
    """Compile a kernel.

    Args:
        kernel: By ``triton.jit``.
        capability: Of the GPU, 80 for 8.0.
        types: Of every argument that is not a constant, as Triton writes them.
        constants: By name.
        aligned: Addresses and strides that are multiples of 16, as they are for every model.
        options: Warps and stages.

    Returns:
        Registers and spilled bytes of a thread, shared memory of a block in bytes, and how many wide matrix
        instructions there are.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if name in aligned and name not in constants
    }
    built = triton.compile(
        ASTSource(kernel, signature, constexprs=dict(constants), attrs=attributes),
        target=GPUTarget("cuda", capability, 32),
        options=dict(options),
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage.stdout)}
    return {
        "registers": found["REG"],
        "spilled_bytes": found["STACK"] + found["LOCAL"],
        "shared_bytes": built.metadata.shared,
        "wgmma": built.asm["ptx"].count("wgmma.mma_async"),
    }
