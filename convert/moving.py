"""What changes beside the heads when a result is another architecture than its source."""

from convert.errors import ConvertError
from convert.layerwise.job import LayerJob
from convert.tiers import Form
from convert.weights.checkpoint import Weights
from convert.weights.dtypes import FLOATS
from convert.weights.layout import Transposition


def plan_moves(job: LayerJob, form: Form) -> tuple[dict[str, Transposition], set[str]]:
    """List the tensors outside attention that another architecture stores differently or not at all.

    Args:
        job: What is done to every layer.
        form: Form of the result.

    Returns:
        The matrices that are transposed, by name, and the names that the result does not have.

    Raises:
        ConvertError: a matrix that the result stores the other way round is not there, or not a float matrix.
    """
    edits: dict[str, Transposition] = {}
    dropped: set[str] = set()
    for layer in range(job.shape.layers):
        for suffix in form.transposed:
            name = job.family.layer_tensor(layer, suffix, job.bare)
            edits[name] = _transposition(job.weights, name)
        dropped |= {job.family.layer_tensor(layer, suffix, job.bare) for suffix in form.dropped}
    return edits, dropped


def _transposition(weights: Weights, name: str) -> Transposition:
    entry = weights.tensors[name].entry if name in weights.tensors else None
    if entry is None or entry.dtype not in FLOATS or len(entry.shape) != 2:
        found = f"has type {entry.dtype}, shape {list(entry.shape)}" if entry else "is missing"
        raise ConvertError(f"tensor {name!r} {found}; it must be a matrix of {', '.join(FLOATS)}")
    return Transposition(entry.shape[::-1])
