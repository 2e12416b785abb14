"""Everything imports on a machine without Triton, from the package and from the folder of a checkpoint."""

import subprocess
import sys
from pathlib import Path

from transformers.dynamic_module_utils import get_imports

from convert.remote_code import find_package, flatten

ROOT = Path(__file__).parents[2]


def test_every_module_imports_without_triton():
    package = ROOT / "patches"
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted(package.rglob("*.py"))
        if path.stem not in ("__main__", "__init__")
    ]
    lines = ["import importlib, sys", "sys.modules['triton'] = None"]
    lines += [f"importlib.import_module('{name}')" for name in names]
    lines += ["from patches.attention import flash", "assert flash._epilogue() is flash.PLAIN"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "triton is not installed" in done.stdout + done.stderr


def test_the_code_of_a_checkpoint_does_not_demand_triton(tmp_path):
    for name, text in flatten(find_package(), "llama").items():
        (tmp_path / name).write_text(text)
    demanded = {word for path in tmp_path.iterdir() for word in get_imports(path)}
    # transformers itself needs safetensors.
    assert demanded - sys.stdlib_module_names == {"torch", "transformers", "safetensors"}
