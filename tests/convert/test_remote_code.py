"""Flattening the code that a windowed checkpoint carries."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from convert import ConvertError
from convert.families import FAMILIES
from convert.remote_code import find_package, flatten

NESTED = {
    "families/llama.py": (
        "from patches.a.b import (\n    one,\n    two as second,\n)\n\nTOTAL = one + second\n"
    ),
    "a/__init__.py": "",
    "a/b.py": (
        '"""Doc."""\nfrom __future__ import annotations\n\nfrom patches.a import c, d as other\n'
        "from patches.names import three  # why\n\none = c.value\n\n\ndef late():\n"
        "    from patches.late import four\n\n    return four\n\n\ntwo = other.value + three + late()\n"
    ),
    "a/c.py": "value = 1\n",
    "a/d.py": "try:\n    import triton\nexcept ImportError:\n    triton = None\nvalue = 10\n",
    "names.py": "three = 100\n",
    "late.py": "four = 1000\n",
    "unused.py": "raise SystemExit\n",
    "__init__.py": "raise SystemExit\n",
}


def write_package(root: Path, files: dict[str, str]) -> Path:
    package = root / "patches"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


def test_flat_files_compute_the_same(tmp_path: Path) -> None:
    flat = flatten(write_package(tmp_path, NESTED), "llama")
    assert set(flat) == {
        "headroom_windowed.py",
        "headroom_a_b.py",
        "headroom_a_c.py",
        "headroom_a_d.py",
        "headroom_names.py",
        "headroom_late.py",
    }
    assert flat["headroom_a_d.py"] == NESTED["a/d.py"]
    folder = tmp_path / "flat"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name, text in flat.items():
        (folder / name).write_text(text)
    code = "from flat.headroom_windowed import TOTAL; print(TOTAL)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1111"


def test_transformers_follows_every_file(tmp_path: Path) -> None:
    flat = flatten(write_package(tmp_path, NESTED), "llama")
    for name, text in flat.items():
        (tmp_path / name).write_text(text)
    followed = {Path(file).name for file in get_relative_import_files(tmp_path / "headroom_windowed.py")}
    assert followed == set(flat) - {"headroom_windowed.py"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"families/llama.py": "import patches.a\n"}, "cannot flatten 'import patches.a'"),
        ({"families/llama.py": "from .a import b\n"}, "relative import"),
        ({"families/llama.py": "from patches import a\n"}, "'from patches import'"),
        ({"families/llama.py": "from patches.gone import a\n"}, "patches.gone does not exist"),
        ({"families/llama.py": "def broken(:\n"}, "line 1 is broken"),
        (
            {
                "families/llama.py": "from patches.a.b import x\nfrom patches.a_b import y\n",
                "a/b.py": "",
                "a_b.py": "",
            },
            "cannot flatten both",
        ),
        ({"other.py": ""}, "patches.families.llama does not exist"),
    ],
)
def test_what_cannot_be_flattened_is_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=message):
        flatten(write_package(tmp_path, files), "llama")


def test_the_real_package_needs_nothing_but_torch_and_transformers(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("patches")
    if spec is None or not Path(spec.submodule_search_locations[0], "families/llama.py").is_file():
        pytest.skip("patches/families is not there")
    files: dict[str, str] = {}
    for family in (family for family in FAMILIES.values() if family.windowed or not family.grouped):
        flat = flatten(find_package(), family.model_type)
        assert f"class Windowed{family.prefix}ForCausalLM" in flat["headroom_windowed.py"]
        files |= flat | {f"{family.model_type}.py": flat["headroom_windowed.py"]}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        third_party = set(get_imports(tmp_path / name)) - set(sys.stdlib_module_names)
        # transformers cannot be installed without safetensors.
        assert third_party <= {"torch", "transformers", "safetensors"}, name
