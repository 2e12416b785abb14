"""Copying the windowed model's code into a checkpoint, for machines that do not have Headroom.

transformers runs a checkpoint's code from one flat folder and follows only ``from .x import y``. The sources
of the ``patches`` package are therefore flattened: ``patches/a/b.py`` becomes ``headroom_a_b.py``. They are
read as text and never imported.
"""

import ast
import importlib.util
from pathlib import Path

from convert.configs import REMOTE_MODULE
from convert.errors import ConvertError

PACKAGE = "patches"
FAMILIES = f"{PACKAGE}.families"


def find_package() -> Path:
    """Find the folder of the ``patches`` package without running it.

    Raises:
        ConvertError: it is not installed here, or has no families.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if _file_of(FAMILIES, Path(folder)) is not None:
            return Path(folder)
    raise ConvertError(
        "a windowed checkpoint carries the code of the patches package, which is not installed here"
    )


def flatten(package: Path, model_type: str) -> dict[str, str]:
    """Flatten the classes of one family and everything they import from their package.

    Args:
        package: Folder of the package, which is called ``patches`` in its own imports.
        model_type: Of the source. Other families stay behind, which the transformers there may not have.

    Returns:
        File names and their contents, ready to be written beside a ``config.json``.

    Raises:
        ConvertError: a file is missing or broken, or an import has a form that cannot be rewritten.
    """
    files: dict[str, str] = {}
    flattened: dict[str, str] = {}
    entry = f"{FAMILIES}.{model_type}"
    pending = [entry]
    while pending:
        module = pending.pop()
        name = f"{REMOTE_MODULE if module == entry else _flat_name(module)}.py"
        if flattened.get(name, module) != module:
            raise ConvertError(f"cannot flatten both {flattened[name]} and {module}: each would be {name}")
        if name in files:
            continue
        path = _file_of(module, package)
        if path is None:
            raise ConvertError(f"cannot copy the windowed model's code: module {module} does not exist")
        files[name], imported = _rewrite(path.read_text(encoding="utf-8"), module, package)
        flattened[name] = module
        pending.extend(imported)
    return files


def _flat_name(module: str) -> str:
    return "_".join(["headroom", *module.split(".")[1:]])


def _file_of(module: str, package: Path) -> Path | None:
    path = package.joinpath(*module.split(".")[1:])
    for candidate in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _rewrite(text: str, module: str, package: Path) -> tuple[str, list[str]]:
    """Rewrite the package's imports in one file; give its new text and the modules it imports."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ConvertError(
            f"cannot copy the windowed model's code: {module} line {error.lineno} is broken"
        ) from error
    lines = text.splitlines(keepends=True)
    imported: list[str] = []
    for node in ast.walk(tree):
        _refuse(node, module)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
            statements, targets = _flat_imports(node, package)
            indent = " " * node.col_offset
            # The freed lines stay empty, so that line numbers of the statements below remain valid here.
            lines[node.lineno - 1 : node.end_lineno] = [
                "".join(f"{indent}{statement}\n" for statement in statements),
                *[""] * ((node.end_lineno or node.lineno) - node.lineno),
            ]
            imported.extend(targets)
    return "".join(lines), imported


def _refuse(node: ast.AST, module: str) -> None:
    if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == PACKAGE for alias in node.names):
        wrong = f"'import {node.names[0].name}'"
    elif isinstance(node, ast.ImportFrom) and node.level:
        wrong = "a relative import"
    elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
        wrong = f"'from {PACKAGE} import'"
    else:
        return
    raise ConvertError(f"cannot flatten {wrong} in {module}; write 'from {PACKAGE}.x import y'")


def _flat_imports(node: ast.ImportFrom, package: Path) -> tuple[list[str], list[str]]:
    """Give the flat statements for one import of names or of modules, and the modules it needs."""
    statements, targets, names = [], [], []
    for alias in node.names:
        submodule = f"{node.module}.{alias.name}"
        if _file_of(submodule, package) is None:
            names.append(f"{alias.name} as {alias.asname}" if alias.asname else alias.name)
            continue
        flat = _flat_name(submodule)
        statements.append(f"from . import {flat} as {alias.asname or alias.name}")
        # transformers does not follow "from . import", so without this line it would not copy the file.
        statements.append(f"from .{flat} import __name__ as _")
        targets.append(submodule)
    if names:
        statements.append(f"from .{_flat_name(node.module or '')} import {', '.join(names)}")
        targets.append(node.module or "")
    return statements, targets
