"""Where a result came from: the ``conversion`` key of its ``config.json``."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.caches import KvCache
from convert.json_file import dump_json
from convert.layerwise.job import Calibration
from convert.request import Request
from convert.source import Source
from convert.treatment import Treatment
from convert.weights.header import WeightFile

if TYPE_CHECKING:
    from convert.calibration.text import CalibrationText

TOOL = "headroom"


def tool_version() -> str:
    """Give the version of the installed distribution, else of the checkout that runs."""
    try:
        return metadata.version(TOOL)
    except metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parent.parent / "pyproject.toml"
        if not project.is_file():
            return "unknown"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def digest_source(config: Mapping[str, Any], files: Iterable[WeightFile]) -> str:
    """Digest what identifies a source's layout: its config, and every weight file's header and size.

    The weights themselves are not read: that would take as long as the conversion.
    """
    digest = hashlib.sha256(dump_json(config).encode())
    for file in files:
        digest.update(f"{file.path.name}:{file.nbytes}:{file.header_sha256}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def build_provenance(
    request: Request,
    treatment: Treatment,
    source: Source,
    files: Iterable[WeightFile],
    source_heads: int,
    kv_heads: tuple[int, ...],
    kept: KvCache,
) -> dict[str, Any]:
    """Build the provenance of a result.

    Args:
        request: What was asked for.
        treatment: How heads are merged.
        source: The checkpoint it came from.
        files: The source's weight files.
        source_heads: KV heads of the source.
        kv_heads: KV heads of the result, layer by layer.
        kept: How the result keeps its tokens.

    Returns:
        A JSON object; ``merge``, ``grouping`` and ``seed`` only if heads were merged, ``cache`` and
        ``window_cache`` only if tokens are compressed.
    """
    after = kv_heads[0] if len(set(kv_heads)) == 1 else list(kv_heads)
    provenance: dict[str, Any] = {
        "tool": TOOL,
        "version": tool_version(),
        "source": source.name,
        "source_revision": source.revision,
        "source_layout_digest": digest_source(source.config, files),
        "source_model_type": source.config["model_type"],
        "source_kv_heads": source_heads,
        "kv_heads": after,
    }
    if after != source_heads:
        provenance |= {"merge": treatment.method.name, "grouping": request.group, "seed": request.seed}
    if not kept.plain:
        provenance |= {"cache": kept.global_layers.spec, "window_cache": kept.window_layers.spec}
    return provenance


def describe_layers(
    records: Sequence[Mapping[str, Any]], calibration: Calibration | None, text: CalibrationText | None
) -> dict[str, Any]:
    """Describe computed layers for the provenance.

    Args:
        records: What is known about each layer.
        calibration: What was done with a text, or None.
        text: The text, or None.

    Returns:
        Keys for the provenance: ``layers``, and ``calibration`` if there was a text.
    """
    found: dict[str, Any] = {}
    if calibration is not None and text is not None:
        found["calibration"] = {
            "text": text.name,
            "digest": text.digest,
            "tokens": text.tokens,
            "row_tokens": text.rows.shape[1],
            "refit": calibration.refit,
            "reconstruct": calibration.steps,
        }
    return found | {"layers": [dict(record) for record in records]}
