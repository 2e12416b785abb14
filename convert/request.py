"""What a caller asks for and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Tier = Literal["native-gqa", "native-window", "windowed"]
VERIFY_LEVELS = ("sample", "full")


@dataclass(frozen=True)
class Request:
    """One conversion, as a user states it.

    Args:
        source: Checkpoint folder or hub id.
        destination: Folder to write; it must not exist unless ``force``.
        kv_heads: KV heads of the result, a divisor of the source's, or ``auto:MEAN``: that many per layer on
            average, shared out by what merging would lose. None keeps the source's.
        merge: Name of a merge method. None: ``mean``, or ``subspace`` where a calibration text is given.
        group: Which heads become one: ``adjacent`` ones, or the best found by ``search``.
        calibrate: Text to measure the layers with: a file, or ``DATASET[:config][:split][:column]``.
        calibrate_tokens: How many of its tokens are read.
        calibrate_batch: Rows that are run at once.
        device: Where calibration runs, as torch names it.
        refit: Whether output projections are solved anew on the text. None: only if no method is named.
        reconstruct: Training steps on each layer's attention. None: 200 if no method is named, else 0.
        window: Tokens each windowed layer sees, the query's own included. None leaves attention as it is.
        sinks: First tokens that stay visible beside the window.
        positions: How far away sinks look: ``absolute``, as far as they are; ``cache``, never farther than in
            a cache that has just filled.
        global_layers: Layers with no window: ``none``, ``all``, ``every:4``, ``first:2,last:2``, ``0,5,10``.
        cache: How layers with full attention keep their tokens: a policy of ``convert.caches`` with settings,
            such as ``int4`` or ``int4:residual=64``. ``full`` keeps them as they are.
        window_cache: The same for layers with a window.
        dtype: Floating type of the result, such as ``bfloat16``. None keeps each tensor's own.
        max_shard_size: Largest weight file, bytes or text such as ``5GB``. None keeps the source's files.
        force: Replace a checkpoint that is already at ``destination``.
        seed: For methods that draw numbers.
        dry_run: Check all but the weights' values and compute the table; write nothing.
        resume: Continue the same request's unfinished conversion beside ``destination``, if there is one.
        verify: How the result is checked before it appears: ``sample`` or ``full``.
        sync: Whether the result is forced to disk before it appears. Without, it appears as soon as it is in
            the page cache, as with ``cp``: a kill still leaves nothing or all of it, but a power cut or a
            crash of the system soon afterwards may lose or damage it.
    """

    source: str
    destination: Path
    kv_heads: int | str | None = None
    merge: str | None = None
    group: str = "adjacent"
    calibrate: str | None = None
    calibrate_tokens: int = 32768
    calibrate_batch: int = 8
    device: str = "cpu"
    refit: bool | None = None
    reconstruct: int | None = None
    window: int | None = None
    sinks: int = 0
    positions: str = "absolute"
    global_layers: str = "none"
    cache: str = "full"
    window_cache: str = "full"
    dtype: str | None = None
    max_shard_size: int | str | None = None
    force: bool = False
    seed: int = 0
    dry_run: bool = False
    resume: bool = False
    verify: str = "sample"
    sync: bool = True


@dataclass(frozen=True)
class Row:
    """One line of the table: a quantity of the source and of the result."""

    label: str
    before: int
    after: int
    unit: Literal["count", "bytes"]


@dataclass(frozen=True)
class Result:
    """What a conversion wrote, or would write when ``dry_run``.

    Args:
        path: The new checkpoint folder.
        tier: How portable the result is.
        reason: Why it is that tier, one sentence.
        model_type: ``model_type`` of the new ``config.json``.
        load_lines: Python lines that load the result.
        rows: The table, source beside result.
        provenance: The ``conversion`` key of the new ``config.json``.
        dry_run: Whether nothing was written.
        notes: What else the user should know, one sentence each.
    """

    path: Path
    tier: Tier
    reason: str
    model_type: str
    load_lines: tuple[str, ...]
    rows: tuple[Row, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    notes: tuple[str, ...] = ()
