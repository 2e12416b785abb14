"""Carrying out a plan: weights, config, tokenizer, code and card into one folder that appears at once."""

import errno
import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from convert.calibration.share import ALONE, Share
from convert.card import build_card
from convert.durable import copy_file, write_text
from convert.errors import ConvertError
from convert.journal import build_journal
from convert.json_file import dump_json
from convert.layerwise.store import ComputedTensor, LayerStore
from convert.partial import Partial, open_partial
from convert.plan import Plan, make_plan
from convert.request import Request, Result
from convert.verify import verify
from convert.weights.checkpoint import INDEX
from convert.weights.layout import Piece, build_index
from convert.weights.writing import write_files

Report = Callable[[str, int, int, str], None]
"""Called with what is being done, how much is done, how much there is, and the unit: bytes or steps."""


def convert(
    request: Request,
    command: str | None = None,
    report: Report | None = None,
    code_root: Path | None = None,
    share: Share = ALONE,
) -> Result:
    """Convert a checkpoint.

    Args:
        request: What is asked for.
        command: The command line to put in the model card; None builds it from the request.
        report: Called while layers are computed and weights are written.
        code_root: Folder of the ``patches`` package; None finds the installed one.
        share: Processes that make the same call and read a calibration text together; the main one alone
            writes, and the others need not see the destination.

    Returns:
        What was written, or would be when ``request.dry_run``.

    Raises:
        ConvertError: the request, the source or the destination does not allow it. Nothing is left on disk,
            or, after a full disk and the like, what ``resume`` can continue; then the message says so.
    """
    try:
        tell = report or (lambda name, done, total, unit: None)
        plan = make_plan(
            request, code_root, lambda stage, done, total: tell(stage, done, total, "steps"), share
        )
        if request.dry_run:
            return plan.result
        if share.rank:
            return _help(plan, tell)
        return _carry_out(plan, command or command_line(request), tell)
    except OSError as error:
        raise ConvertError(_explain(error)) from error


def command_line(request: Request) -> str:
    """Write the command that makes a request, options in the order of the record."""
    words = ["python", "-m", "convert", request.source, str(request.destination)]
    for option in fields(Request)[2:]:
        value = getattr(request, option.name)
        if value == option.default or option.name == "resume":
            continue
        words.append(f"--{'no-' if value is False else ''}{option.name.replace('_', '-')}")
        if value is not True and value is not False:
            words.append(str(value))
    return shlex.join(words)


def _help(plan: Plan, report: Report) -> Result:
    """Take part in what the main process computes; it alone reads and keeps layers."""
    if plan.job is not None and plan.job.calibration is not None:
        from convert.layerwise.compute import compute

        compute(plan.job, LayerStore(Path()), lambda stage, done, total: report(stage, done, total, "steps"))
    return plan.result


def _carry_out(plan: Plan, command: str, report: Report) -> Result:
    request = plan.request
    texts = {"config": plan.form.config, "code": plan.code}
    journal = build_journal(request, plan.weights.files, plan.files, texts, command)
    with open_partial(request.destination, journal, request.force, request.resume, request.sync) as partial:
        plan = _compute(partial, plan, report)
        _write_weights(partial, plan, report)
        _write_others(partial, plan)
        verify(partial.folder, plan, lambda done, total: report("verifying", done, total, "bytes"))
    return plan.result


def _compute(partial: Partial, plan: Plan, report: Report) -> Plan:
    """Compute the layers of a plan that cannot be streamed; give the plan that knows them."""
    job = plan.job
    if job is None:
        return plan
    # With these come torch's models, a second of imports that streaming does not need.
    from convert.layerwise.compute import compute

    store = LayerStore(partial.work, plan.request.sync)
    described = compute(job, store, lambda stage, done, total: report(stage, done, total, "steps"))
    provenance = dict(plan.result.provenance) | described
    return replace(
        plan,
        files=tuple(
            replace(file, pieces=tuple(_bind(piece, store) for piece in file.pieces)) for file in plan.files
        ),
        form=replace(plan.form, config=plan.form.config | {"conversion": provenance}),
        result=replace(plan.result, provenance=provenance),
    )


def _bind(piece: Piece, store: LayerStore) -> Piece:
    if not isinstance(piece.edit, ComputedTensor):
        return piece
    return replace(piece, edit=replace(piece.edit, store=store))


def _write_weights(partial: Partial, plan: Plan, report: Report) -> None:
    total = sum(piece.nbytes for file in plan.files for piece in file.pieces)
    done = 0

    def advance(name: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        report(name, done, total, "bytes")

    write_files(partial.folder, partial.work, plan.files, advance, plan.request.sync)


def _write_others(partial: Partial, plan: Plan) -> None:
    folder, sync = partial.folder, plan.request.sync
    for path in plan.carried:
        copy_file(plan.source.folder / path, folder / path, sync)
    texts = {INDEX: dump_json(build_index(plan.files))} if len(plan.files) > 1 else {}
    texts |= plan.code
    texts["README.md"] = build_card(plan.result, plan.form.config, partial.command)
    texts["config.json"] = dump_json(plan.form.config)
    for name, text in texts.items():
        write_text(folder / name, text, sync)


def _explain(error: OSError) -> str:
    full = {
        errno.ENOSPC: " (the disk is full)",
        errno.EDQUOT: " (the quota is used up)",
        errno.EFBIG: " (larger than files may be here, see ulimit -f)",
    }
    where = f" {error.filename}" if error.filename else ""
    kept = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    return (
        f"reading or writing failed{full.get(error.errno or 0, '')}:{where} {error.strerror or error}{kept}"
    )
