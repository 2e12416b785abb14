"""What a conversion tells: the table, where it stands, how to load it."""

import json
import os
from pathlib import Path

from convert.footprint import CacheShape, build_rows
from convert.request import Request, Result
from convert.source import Source
from convert.tiers import Form
from convert.weights.checkpoint import Weights
from convert.weights.header import encode_header
from convert.weights.layout import OutputFile


def _weight_bytes(files: tuple[OutputFile, ...]) -> int:
    headers = (encode_header([(p.name, p.dtype, p.shape, p.nbytes) for p in file.pieces]) for file in files)
    return sum(map(len, headers)) + sum(piece.nbytes for file in files for piece in file.pieces)


def count_bytes(source: Source, files: tuple[OutputFile, ...], carried: tuple[Path, ...]) -> int:
    """Count the bytes that a result takes on the disk, but for its texts."""
    return _weight_bytes(files) + sum((source.folder / path).stat().st_size for path in carried)


def build_result(
    request: Request,
    form: Form,
    weights: Weights,
    files: tuple[OutputFile, ...],
    caches: tuple[CacheShape, CacheShape],
    notes: tuple[str, ...],
) -> Result:
    """Build what a conversion returns.

    Args:
        request: What was asked for.
        form: Form of the result, its config complete.
        weights: The source's weight files.
        files: The result's.
        caches: Caches of source and result.
        notes: What the user should know.

    Returns:
        The result.
    """
    parameters = sum(piece.elements for file in files for piece in file.pieces)
    rows = build_rows(*caches, (weights.parameters, parameters), (weights.nbytes, _weight_bytes(files)))
    return Result(
        path=request.destination,
        tier=form.tier,
        reason=form.reason,
        model_type=form.config["model_type"],
        load_lines=load_lines(form, request.destination),
        rows=rows,
        provenance=form.config["conversion"],
        dry_run=request.dry_run,
        notes=notes,
    )


def load_lines(form: Form, destination: Path) -> tuple[str, ...]:
    """Give the Python lines that load a result.

    Args:
        form: Its form.
        destination: Its folder.

    Returns:
        Lines to paste; for the windowed tier the second way is a comment.
    """
    path = json.dumps(os.fspath(destination), ensure_ascii=False)
    lines = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f"model = AutoModelForCausalLM.from_pretrained({path})",
        f"tokenizer = AutoTokenizer.from_pretrained({path})",
    )
    if form.tier != "windowed":
        return lines
    return (
        "import patches  # or, without Headroom installed: from_pretrained(..., trust_remote_code=True)",
        *lines,
    )
