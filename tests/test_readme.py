"""The README's commands run as they stand, and its tables are true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from convert.families import FAMILIES
from convert.merging import METHODS
from convert.support import CACHE_HEADER, HEADER, cache_table, family_table
from eval.measures import MEASURES
from eval.retrieval import kind_table
from eval.suite import suite_names
from patches.remote import FAMILIES as WINDOWED
from patches.remote import GROUPED_FAMILIES as GROUPED
from recipes.loading import shipped_recipes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_every_block_runs_in_order(tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    assert len(BLOCKS) >= 4
    for language, text in BLOCKS:
        command = ["bash", "-euc", text] if language == "bash" else [sys.executable, "-c", text]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{text}\n{run.stdout}\n{run.stderr}"
        if language == "python":
            assert (
                run.stdout.startswith("once upon a time") and len(run.stdout) > len("once upon a time") + 20
            )
    for name in ("results.json", "report.md", "report.html"):
        assert (tmp_path / "runs" / "compare" / name).is_file()


def test_the_two_first_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "check"):
        assert f"\n{target}: venv\n" in makefile
    assert README.index("make demo") < README.index("make test") < README.index("## ")


def test_tables_name_what_is_registered():
    assert "\n".join([HEADER, "|---|---|---|---|", *family_table()]) in README
    for classes, named in (
        (WINDOWED, {name for name, family in FAMILIES.items() if family.windowed}),
        (GROUPED, {name for name, family in FAMILIES.items() if not (family.grouped or family.windowed)}),
    ):
        assert {config.model_type for config, _, _ in classes} == {f"windowed_{name}" for name in named}
    assert "\n".join([CACHE_HEADER, "|---|---|---|---|", *cache_table()]) in README
    for path in shipped_recipes():
        if path.parent.name != "suites":
            assert f"| `{path.relative_to(ROOT)}` |" in README
    assert all(f"`{name}`" in README or f"`--merge {name}`" in README for name in METHODS)
    assert "\n".join(kind_table()) in README
    assert all(f"`{name}`" in README for name in (*MEASURES, *suite_names()))


def test_docstrings_name_tests_that_exist():
    for room in ("convert", "patches", "eval", "recipes"):
        for path in (ROOT / room).rglob("*.py"):
            for named in re.findall(r"tests/[\w/]+\.py", path.read_text(encoding="utf-8")):
                assert (ROOT / named).is_file(), f"{path}: {named}"


def test_the_tree_names_what_is_there():
    tree = README[README.index("## The tree") :]
    for folder in re.findall(r"^  ?(\w+/)(?:, (\w+/))?", tree, flags=re.MULTILINE):
        assert any(
            (ROOT / room / name).is_dir()
            for name in folder
            if name
            for room in ("convert", "patches", "eval", "recipes")
        )
    for path in ROOT.iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"\n{path.name}/" in tree
