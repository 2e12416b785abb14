"""The command line's words as an ``Ask``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from eval.checkpoint import DTYPES, one_line, pick_device
from eval.errors import EvalError, unknown_name
from eval.speed.records import Ask
from eval.speed.shapes import changed, known_shape, shape_of
from patches.attention.backends import BACKENDS

WINDOW, SINKS = 1024, 4


def build_ask(
    path: str | None,
    shape: str | None,
    given: dict[str, int | None],
    *,
    lengths: Sequence[int],
    batches: Sequence[int],
    window: int | None,
    sinks: int | None,
    phases: Sequence[str],
    backends: Sequence[str] | None,
    skip: Sequence[str],
    device: str,
    dtype: str,
    runs: int,
    limit_s: float,
    threads: int | None,
    seed: int,
) -> Ask:
    """Check what the user asked for.

    Args:
        path: A checkpoint folder, or None.
        shape: A known shape's name, or None with a ``path``.
        given: ``heads``, ``kv_heads``, ``head_dim`` and ``layers`` that replace the shape's.
        lengths: These and those that follow as in ``Ask``; a window or sinks of None are the checkpoint's.

    Raises:
        EvalError: both or neither of path and shape, or a name or number that cannot be.
    """
    if path is not None and (
        shape is not None or any(given[key] for key in ("heads", "kv_heads", "head_dim"))
    ):
        raise EvalError(
            "a checkpoint has its shape: leave out PATH, or --shape, --heads, --kv-heads, --head-dim"
        )
    policy: dict[str, Any] = {}
    if path is not None:
        config = _config(path)
        policy = getattr(config, "attention_window", None) or {}
        known = shape_of(config, Path(path).name)
    else:
        known = known_shape(shape or "")
    for name in backends or ():
        if name not in BACKENDS:
            raise EvalError(unknown_name("backend", name, BACKENDS))
    place = pick_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise EvalError(f"dtype {dtype!r} is not known: auto, {', '.join(DTYPES)}")
    automatic = "bfloat16" if place.type == "cuda" else "float32"
    return Ask(
        shape=changed(known, **given),
        checkpoint=path,
        layers_of=known.layers,
        lengths=tuple(sorted(set(lengths))),
        window=window or policy.get("size") or WINDOW,
        sinks=policy.get("sinks", SINKS) if sinks is None else sinks,
        batches=tuple(sorted(set(batches))),
        phases=tuple(phases),
        backends=None if backends is None else tuple(backends),
        skip=tuple(skip),
        runs=runs,
        limit_s=limit_s,
        device=place,
        dtype=DTYPES[automatic if dtype == "auto" else dtype],
        threads=threads or torch.get_num_threads(),
        seed=seed,
    )


def _config(path: str) -> Any:
    """The config of a checkpoint's decoder.

    Raises:
        EvalError: there is no folder, or no config that transformers reads.
    """
    if not (Path(path) / "config.json").is_file():
        raise EvalError(f"checkpoint {path!r} is not a folder with a config.json")
    try:
        return AutoConfig.from_pretrained(path).get_text_config(decoder=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise EvalError(f"checkpoint {path!r}: config not readable: {one_line(error)}") from None
