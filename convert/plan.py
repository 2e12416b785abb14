"""Everything a conversion will do, decided and checked before a byte is written."""

from dataclasses import dataclass, replace
from pathlib import Path

from convert.attention import AttentionShape, check_tensors, read_shape
from convert.calibration.share import ALONE, Share
from convert.carry import list_carried
from convert.compression import check_caches, read_caches
from convert.destination import check_destination, check_space
from convert.errors import ConvertError, unknown
from convert.families import find_family
from convert.families.family import Family
from convert.footprint import CacheShape
from convert.head_counts import parse_kv_heads
from convert.layerwise.allocate import measure_and_allocate
from convert.layerwise.job import LayerJob, Progress
from convert.layerwise.store import plan_layers
from convert.moving import plan_moves
from convert.outcome import build_result, count_bytes
from convert.pooling import plan_edits
from convert.positions import check_positions
from convert.provenance import build_provenance
from convert.remote_code import find_package, flatten
from convert.request import VERIFY_LEVELS, Request, Result
from convert.source import Source, open_source
from convert.tiers import Form, check_no_slide, check_own_class, choose_form
from convert.treatment import Treatment, check_family, choose_treatment, unused
from convert.weights.checkpoint import Weights, open_weights
from convert.weights.dtypes import ELEMENT_BYTES, config_name, parse_dtype
from convert.weights.layout import Edit, OutputFile, parse_size, plan_files, plan_pieces
from convert.window import read_window


@dataclass(frozen=True)
class Plan:
    """A checked conversion: its source, its files, and the result it will return."""

    request: Request
    source: Source
    form: Form
    weights: Weights
    files: tuple[OutputFile, ...]
    carried: tuple[Path, ...]
    code: dict[str, str]
    job: LayerJob | None
    result: Result


def make_plan(
    request: Request,
    code_root: Path | None = None,
    progress: Progress | None = None,
    share: Share = ALONE,
) -> Plan:
    """Check a request against its source and decide everything.

    Args:
        request: What is asked for.
        code_root: Folder of the ``patches`` package; None finds the installed one.
        progress: Called while layers are measured to share KV heads out among them.
        share: The processes that read a calibration text together; all must plan.

    Returns:
        The plan. Nothing was written.

    Raises:
        ConvertError: the request, the source or the destination does not allow it.
    """
    treatment = choose_treatment(request)
    dtype = None if request.dtype is None else parse_dtype(request.dtype)
    shard_bytes = None if request.max_shard_size is None else parse_size(request.max_shard_size)
    kept = read_caches(request)
    if request.kv_heads is None and request.window is None and kept.plain:
        raise ConvertError("nothing to convert: give --kv-heads, --window, --cache or several")
    if request.verify not in VERIFY_LEVELS:
        raise unknown("verify", request.verify, VERIFY_LEVELS)
    source = open_source(request.source)
    check_destination(request.destination, source.folder, request.force)
    family = find_family(source.config)
    shape = read_shape(family, source.config)
    wanted = parse_kv_heads(request.kv_heads, shape.kv_heads)
    window = read_window(request, shape)
    check_positions(window, family, source.config, shape)
    check_caches(request, kept, window, family, shape)
    weights = open_weights(source.folder)
    cache_dtype = check_tensors(family, source.config, shape, weights)
    notes = treatment.notes + check_family(treatment, family, source.config)
    job = _job(request, treatment, source, weights, family, shape, dtype)
    if job.calibration is not None:
        job = replace(job, calibration=replace(job.calibration, share=share))
    if isinstance(wanted, float):
        differ = f"kv_heads=auto: layers of {family.model_type} cannot differ in their KV heads"
        check_own_class(family, differ)
        check_no_slide(family, shape, "kv_heads=auto")
        job = replace(job, kv_heads=measure_and_allocate(job, wanted, progress or (lambda *_: None)))
    else:
        job = replace(job, kv_heads=(wanted,) * shape.layers)
    merged = set(job.kv_heads) != {shape.kv_heads}
    form = choose_form(family, source.config, shape, job.kv_heads, window, kept)
    job = replace(job, layout=form.layout)
    if request.window is not None and window is None and form.tier != "windowed":
        form = replace(form, reason="every layer is global, so no layer has a window")
    streams = treatment.streams and len(set(job.kv_heads)) == 1
    edits: dict[str, Edit] = {}
    dropped: set[str] = set()
    if merged or form.tier == "windowed":
        moves, dropped = plan_moves(job, form)
        edits |= moves
    if merged:
        edits |= plan_edits(job) if streams else plan_layers(job)
    files = plan_files(plan_pieces(weights, edits, dropped, dtype), shard_bytes)
    carried = list_carried(source.folder)
    code = flatten(code_root or find_package(), family.model_type) if form.tier == "windowed" else {}
    check_space(request.destination, count_bytes(source, files, carried))
    if dtype is not None:
        form.config["torch_dtype" if "torch_dtype" in form.config else "dtype"] = config_name(dtype)
    form.config["conversion"] = build_provenance(
        request, treatment, source, weights.files, shape.kv_heads, job.kv_heads, kept
    )
    caches = (
        CacheShape(
            (shape.kv_heads,) * shape.layers, shape.head_dim, ELEMENT_BYTES[cache_dtype], shape.windows
        ),
        CacheShape(
            job.kv_heads,
            shape.head_dim,
            ELEMENT_BYTES[dtype or cache_dtype],
            form.slots,
            # Without a window of ours a grouped class keeps what a cache of transformers keeps.
            ours=form.tier == "windowed" and family.windowed,
            sinks=0 if window is None else window.sinks,
            kept=kept,
        ),
    )
    notes = (notes if merged else unused(request)) + kept.notes
    result = build_result(request, form, weights, files, caches, notes)
    computed = job if merged and not streams else None
    return Plan(request, source, form, weights, files, carried, code, computed, result)


def _job(
    request: Request,
    treatment: Treatment,
    source: Source,
    weights: Weights,
    family: Family,
    shape: AttentionShape,
    dtype: str | None,
) -> LayerJob:
    return LayerJob(
        folder=source.folder,
        weights=weights,
        family=family,
        config=dict(source.config),
        shape=shape,
        bare=family.is_bare(weights.tensors),
        kv_heads=(shape.kv_heads,) * shape.layers,
        method=treatment.method,
        search=treatment.search,
        seed=request.seed,
        initializer_range=_initializer_range(family, source),
        layout=family.layout,
        dtype=dtype,
        calibration=treatment.calibration,
    )


def _initializer_range(family: Family, source: Source) -> float:
    value = family.value(source.config, "initializer_range")
    value = 0.02 if value is None and "initializer_range" not in source.config else value
    if type(value) not in (int, float) or not 0 <= value < 1e6:
        raise ConvertError(f"config.json: initializer_range={value!r} is not a standard deviation")
    return float(value)
