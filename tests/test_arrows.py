"""The arrows of ARCHITECTURE.md: who may import whom, no circle, and variants that do not know each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARROWS: dict[str, set[str]] = {
    "convert": set(),
    "patches": set(),
    "eval": {"patches"},
    "recipes": {"convert", "patches", "eval"},
}
VARIANTS = {
    "convert/caches": {"policy", "room"},
    "convert/families": {
        *("family", "forms", "keys"),
        *("layouts", "layouts.layout", "layouts.separate", "layouts.concatenated", "layouts.interleaved"),
    },
    "convert/families/layouts": {"layout"},
    "convert/merging": {"method", "inputs", "rotation"},
    "patches/families": set(),
    "patches/attention": {
        "mask",
        "parts",
        "scoring",
        "explicit",
        "documents",
        "two_part",
        "stored",
        "block_masks",
        "full_blocks",
        "stretches",
        "kept",
    },
    "patches/cache/policies": {"policy"},
    "eval/measures": {"base", "metrics"},
    "eval/retrieval": {"kind", "prompts", "document", "documents", "scoring", "summary"},
}
"""Folders of variants, and the files in them that variants share."""


def modules() -> dict[str, Path]:
    """Every module of the four rooms, by dotted name."""
    found = {}
    for room in ARROWS:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """Modules of ours that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports inside the rooms are absolute"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inner]
        yield from (name for name in names if name.split(".")[0] in ARROWS)


@pytest.mark.parametrize("room", ARROWS)
def test_rooms_import_only_along_the_arrows(room):
    for name, path in MODULES.items():
        if name.split(".")[0] == room:
            wrong = {target for target in imports(path) if target.split(".")[0] not in ARROWS[room] | {room}}
            assert not wrong, f"{name} imports {sorted(wrong)}"


def test_no_circle():
    graph = {name: set(imports(path, top_level_only=True)) & MODULES.keys() for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("folder", VARIANTS)
def test_variants_do_not_know_each_other(folder):
    package = folder.replace("/", ".")
    shared = {f"{package}.{name}" for name in VARIANTS[folder]}
    registry = {package, f"{package}.backends"}
    variants = {name for name in MODULES if name.startswith(f"{package}.")} - shared - registry
    assert variants
    for name in variants:
        known = set(imports(MODULES[name])) & (variants - {name})
        assert not known, f"{name} imports {sorted(known)}"
