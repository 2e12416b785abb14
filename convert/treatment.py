"""How heads are merged: the method, the grouping and the calibration that a request means, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.errors import ConvertError, unknown
from convert.families.family import Family
from convert.head_counts import AUTO
from convert.layerwise.job import Calibration
from convert.merging import RANDOM, find_method
from convert.merging.method import MergeMethod
from convert.request import Request

GROUPINGS = ("adjacent", "search")
DEFAULT = "mean"
DEFAULT_WITH_TEXT = "subspace"
DEFAULT_STEPS = 200


@dataclass(frozen=True)
class Treatment:
    """What is done to the heads.

    Args:
        method: The merge method.
        search: Whether groups are searched for.
        calibration: The text and what is done with it, or None.
        notes: What the user should know about the choice, one sentence each.
    """

    method: MergeMethod
    search: bool
    calibration: Calibration | None
    notes: tuple[str, ...]

    @property
    def streams(self) -> bool:
        """Whether key and value tensors can be pooled one at a time, without computing whole layers."""
        return self.method.pool is not None and not self.search and self.calibration is None


def choose_treatment(request: Request) -> Treatment:
    """Read the merging options of a request.

    Args:
        request: The request.

    Returns:
        The treatment. With a calibration text and no named method: ``subspace``, refit and reconstruction.

    Raises:
        ConvertError: a name is not known, a number is out of range, or options contradict each other.
    """
    if request.group not in GROUPINGS:
        raise unknown("group", request.group, GROUPINGS)
    notes: list[str] = []
    by_default = request.merge is None and request.calibrate is not None
    method = find_method(request.merge or (DEFAULT_WITH_TEXT if by_default else DEFAULT))
    calibration = _calibration(request, by_default)
    if by_default and calibration is not None:
        also = [
            word for word, on in (("refit", calibration.refit), ("reconstruction", calibration.steps)) if on
        ]
        extras = " with " + " and ".join(also) if also else ""
        notes.append(f"A calibration text was given and no --merge, so the method is {method.name}{extras}")
    search, shared = request.group == "search", str(request.kv_heads).startswith(AUTO)
    if method is RANDOM and (search or shared or calibration is not None):
        option = "--group search" if search else "--kv-heads auto" if shared else "--calibrate"
        raise ConvertError(f"merge='random' draws its heads from nothing and has no use for {option}")
    return Treatment(method, search, calibration, tuple(notes))


def check_family(treatment: Treatment, family: Family, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Check that a family allows a treatment.

    Args:
        treatment: What is to be done.
        family: Family of the source.
        config: Its ``config.json``.

    Returns:
        What the user should know, one sentence each.

    Raises:
        ConvertError: the checkpoint does not allow its heads to be rotated, or to change places.
    """
    if treatment.search and family.ordered(config):
        raise ConvertError(
            f"group='search' moves heads, but here each query head of {family.model_type} has a number of "
            "its own (an ALiBi slope or a sink logit); use --group adjacent"
        )
    if treatment.method.pool is not None:
        return ()
    fixed = family.fixed(config)
    if fixed is not None:
        raise ConvertError(f"merge={treatment.method.name!r} rotates heads, but {fixed}; use mean")
    if family.key_norm(config):
        return (
            f"A norm stands between key projection and rotary in {family.model_type}: keys are averaged, "
            f"only values use {treatment.method.name}",
        )
    return ()


def unused(request: Request) -> tuple[str, ...]:
    """Say what a request names in vain if the KV heads stay as they are."""
    notes = []
    if request.calibrate is not None:
        notes.append("The KV heads stay as they are, so the calibration text was not read")
    if request.merge is not None or request.group != GROUPINGS[0]:
        notes.append("The KV heads stay as they are, so nothing was merged")
    return tuple(notes)


def _calibration(request: Request, by_default: bool) -> Calibration | None:
    refit = by_default if request.refit is None else request.refit
    steps = (DEFAULT_STEPS if by_default else 0) if request.reconstruct is None else request.reconstruct
    if steps < 0:
        raise ConvertError(f"reconstruct={steps} must be 0 or a number of steps")
    if request.calibrate is None:
        if refit or steps:
            option = "refit" if refit else f"reconstruct={steps}"
            raise ConvertError(f"{option} needs a calibration text (give --calibrate)")
        for option in ("calibrate_tokens", "calibrate_batch", "device"):
            if getattr(request, option) != getattr(Request, option):
                raise ConvertError(
                    f"{option}={getattr(request, option)!r} needs a calibration text (give --calibrate)"
                )
        return None
    for name, value in (("tokens", request.calibrate_tokens), ("batch", request.calibrate_batch)):
        if value < 1:
            raise ConvertError(f"calibrate_{name}={value} must be at least 1")
    return Calibration(
        text=request.calibrate,
        tokens=request.calibrate_tokens,
        batch=request.calibrate_batch,
        device=_device(request.device),
        refit=refit,
        steps=steps,
    )


def _device(name: str) -> str:
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, dtype=torch.float64, device=device)
    # Torch says in one of several ways that it does not know or have a device, or float64 on it (mps).
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ConvertError(
            f"device={name!r} cannot be used here: {first} (allowed: cpu, cuda, cuda:1)"
        ) from error
    if device.type == "meta":
        raise ConvertError("device='meta' holds no numbers; allowed: cpu, cuda, cuda:1")
    return name
