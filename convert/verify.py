"""A result, read again from the disk and compared with what was planned, before it gets its name."""

from collections.abc import Callable
from pathlib import Path

from convert.attention import check_tensors, read_shape
from convert.errors import ConvertError
from convert.families import FAMILIES
from convert.json_file import read_json
from convert.partial import WORK
from convert.plan import Plan
from convert.weights.checkpoint import INDEX, Weights, open_weights
from convert.weights.comparing import compare_copies


def verify(folder: Path, plan: Plan, report: Callable[[int, int], None]) -> None:
    """Check a finished folder.

    Always: the files are those of the plan; their headers, read again, hold every planned tensor with its
    type and shape and no other; where the written config is of a family known here, it implies these
    attention shapes; 64 KiB of each of 16 untouched tensors are the source's. With ``verify="full"`` all
    bytes of all untouched tensors are compared, and transformers finds no tensor missing, unexpected or of
    another shape.

    Args:
        folder: The result, complete but for its name.
        plan: What it should be.
        report: Called while bytes are compared.

    Raises:
        ConvertError: something is not as planned.

    Holds: each of these is noticed (tests/convert/test_verify.py).
    """
    full = plan.request.verify == "full"
    _check_files(folder, plan)
    written = open_weights(folder)
    _check_planned(written, plan)
    config = read_json(folder / "config.json")
    if config != plan.form.config:
        raise ConvertError("the result was not kept: config.json on the disk is not what was written")
    family = FAMILIES.get(config["model_type"])
    if family is not None:
        check_tensors(family, config, read_shape(family, config), written)
    compare_copies(plan.files, written, full, report)
    if full:
        from convert.loading import check_loading

        check_loading(folder, plan)


def _check_files(folder: Path, plan: Plan) -> None:
    planned = {"config.json", "README.md", *map(str, plan.carried), *plan.code}
    planned |= {file.name for file in plan.files} | ({INDEX} if len(plan.files) > 1 else set())
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    found = {str(path) for path in paths if path.parts[0] != WORK}
    for name in sorted(planned ^ found):
        state = "is missing" if name in planned else "does not belong there"
        raise ConvertError(f"the result was not kept: its file {name} {state}")


def _check_planned(written: Weights, plan: Plan) -> None:
    planned = {piece.name: (piece.dtype, piece.shape) for file in plan.files for piece in file.pieces}
    found = {name: (each.entry.dtype, each.entry.shape) for name, each in written.tensors.items()}
    for name in sorted(planned.keys() | found.keys()):
        if planned.get(name) != found.get(name):
            raise ConvertError(
                f"the result was not kept: tensor {name!r} on the disk is {found.get(name, 'missing')}, "
                f"planned was {planned.get(name, 'none of this name')}"
            )
