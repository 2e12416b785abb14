"""Copying the windowed model's code into a checkpoint, for machines that do not have Headroom.

transformers runs a checkpoint's code from one flat folder and follows only ``from .x import y``. The sources
of the ``patches`` package are therefore flattened: ``patches/a/b.py`` becomes ``headroom_a_b.py``. They are
read as text and never imported.
"""

import ast
import importlib.util
from pathlib import Path

from convert.errors import ConvertError
from convert.tiers import REMOTE_MODULE

PACKAGE = "patches"
ENTRY = f"{PACKAGE}.remote"


def find_package() -> Path:
    """Find the folder of the ``patches`` package without running it.

    Raises:
        ConvertError: it is not installed here, or has no entry file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if _file_of(ENTRY, Path(folder)) is not None:
            return Path(folder)
    raise ConvertError(
        "a windowed checkpoint carries the code of the patches package, which is not installed here"
    )


def flatten(package: Path) -> dict[str, str]:
    """Flatten the entry file of a package and everything it imports from that package.

    Args:
        package: Folder of the package, which is called ``patches`` in its own imports.

    Returns:
        File names and their contents, ready to be written beside a ``config.json``.

    Raises:
        ConvertError: a file is missing or broken, or an import has a form that cannot be rewritten.
    """
    files: dict[str, str] = {}
    pending = [ENTRY]
    while pending:
        module = pending.pop()
        name = f"{_flat_name(module)}.py"
        if name in files:
            continue
        path = _file_of(module, package)
        if path is None:
            raise ConvertError(f"cannot copy the windowed model's code: module {module} does not exist")
        files[name], imported = _rewrite(path.read_text(encoding="utf-8"), module, package)
        pending.extend(imported)
    return files


def _flat_name(module: str) -> str:
    if module == ENTRY:
        return REMOTE_MODULE
    return "_".join(["headroom", *module.split(".")[1:]])


def _file_of(module: str, package: Path) -> Path | None:
    path = package.joinpath(*module.split(".")[1:])
    for candidate in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _rewrite(text: str, module: str, package: Path) -> tuple[str, list[str]]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ConvertError(
            f"cannot copy the windowed model's code: {module} line {error.lineno} is broken"
        ) from error
    lines = text.splitlines(keepends=True)
    imported = []
    for node in ast.walk(tree):
        target = _target(node, module, package)
        if target is None or not isinstance(node, ast.ImportFrom):
            continue
        line = lines[node.lineno - 1]
        before, after = line[: node.col_offset], line[node.col_offset :]
        lines[node.lineno - 1] = before + after.replace(f"from {target} ", f"from .{_flat_name(target)} ", 1)
        imported.append(target)
    return "".join(lines), imported


def _target(node: ast.AST, module: str, package: Path) -> str | None:
    """Name the module of the package that a statement imports from, or None."""
    if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == PACKAGE for alias in node.names):
        raise ConvertError(
            f"cannot flatten 'import {node.names[0].name}' in {module}; use 'from {PACKAGE}.x import y'"
        )
    if not isinstance(node, ast.ImportFrom):
        return None
    if node.level:
        raise ConvertError(
            f"cannot flatten the relative import in {module} line {node.lineno}; use '{PACKAGE}.x'"
        )
    target = node.module or ""
    if target == PACKAGE:
        raise ConvertError(
            f"cannot flatten 'from {PACKAGE} import' in {module}; use 'from {PACKAGE}.x import y'"
        )
    if not target.startswith(f"{PACKAGE}."):
        return None
    for alias in node.names:
        if _file_of(f"{target}.{alias.name}", package) is not None:
            raise ConvertError(
                f"cannot flatten the import of module {target}.{alias.name} in {module}; import its names"
            )
    return target
