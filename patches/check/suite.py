"""Run the cases through a backend and measure how far it is from float64."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from patches.attention.backends import BACKENDS, Backend
from patches.check.calls import Inputs, Refused, attend, draw
from patches.check.cases import Case
from patches.check.reference import reference_attention

OUTPUT_LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
GRADIENT_LIMITS = {torch.float32: 5e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
SHARE = 0.05
"""A gradient smaller than this share of the largest is measured against that, because with few keys in sight
those of queries and keys are nothing but rounding."""


@dataclass
class Outcome:
    """What one backend did on one device in one dtype.

    Attributes:
        backend: Its name.
        device: ``cpu`` or ``cuda``.
        dtype: Of queries, keys and values.
        output: The largest relative error of an output.
        gradient: The same of the gradients; None where no case has any.
        cases: How many ran.
        failures: What went wrong, a line each.
        refusals: Why cases were refused, and how many for each reason.
    """

    backend: str
    device: str
    dtype: torch.dtype
    output: float = 0.0
    gradient: float | None = None
    cases: int = 0
    failures: list[str] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no case failed."""
        return not self.failures


def dtype_name(dtype: torch.dtype) -> str:
    """``bfloat16`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")


def run(
    names: list[str], devices: list[str], cases: list[Case], report: Callable[[str], None]
) -> Iterator[Outcome]:
    """Every backend on every device in every dtype; a combination that refuses all cases gives nothing.

    Args:
        names: Backends that this machine can run.
        devices: ``cpu``, ``cuda``.
        cases: What to run.
        report: Told what runs now, because a backend that compiles takes minutes.
    """
    for name in names:
        for device in devices:
            for dtype in OUTPUT_LIMITS:
                outcome = Outcome(name, device, dtype)
                # A backend that compiles does so for many more shapes here than in any model.
                with torch._dynamo.config.patch(recompile_limit=256):
                    for case in cases:
                        report(f"{name}, {device}, {dtype_name(dtype)}: {case.about}")
                        _measure(outcome, BACKENDS[name], case)
                if outcome.cases:
                    yield outcome


def _measure(outcome: Outcome, backend: Backend, case: Case) -> None:
    """Run one case forward, and backward where it is one pass, and enter what came of it."""
    for backward in (False, True) if len(case.passes) == 1 else (False,):
        try:
            output, gradient = _errors(backend, case, outcome, backward)
        except Refused as reason:
            outcome.refusals[str(reason)] = outcome.refusals.get(str(reason), 0) + 1
            continue
        except Exception as error:
            # A backend that breaks is what this command is to report, whatever it raises.
            said = next(iter(str(error).splitlines()), "")
            outcome.cases += 1
            outcome.failures.append(f"{case.about}: {type(error).__name__}: {said}")
            continue
        outcome.cases += 1
        outcome.output = _enter(outcome, case, "output", output, outcome.output, OUTPUT_LIMITS)
        if gradient is not None:
            outcome.gradient = _enter(outcome, case, "gradient", gradient, outcome.gradient, GRADIENT_LIMITS)


def _errors(backend: Backend, case: Case, outcome: Outcome, backward: bool) -> tuple[float, float | None]:
    """The relative error of the output, and the largest of a gradient."""
    inputs = draw(case, outcome.device, outcome.dtype, backward)
    got = attend(backend, case, inputs)
    want = reference_attention(
        inputs.query, inputs.key, inputs.value, case.window, case.sinks, case.head_dim**-0.5,
        case.begins, case.softcap, inputs.sink_logits, inputs.sink_query,
    )  # fmt: skip
    real = _real(case, got)
    output = ((got - want)[real].norm() / want[real].norm()).item()
    return output, _gradient_error(got, want, inputs, real) if backward else None


def _enter(
    outcome: Outcome,
    case: Case,
    what: str,
    error: float,
    largest: float | None,
    limits: dict[torch.dtype, float],
) -> float:
    """Note a failure; gives the largest error so far."""
    limit = limits[outcome.dtype]
    # Not a number is no less than anything.
    if not error <= limit:
        outcome.failures.append(f"{case.about}: {what} is off by {error:.1e}, allowed {limit:.0e}")
    return error if largest is None or not error <= largest else largest


def _real(case: Case, output: Tensor) -> Tensor:
    """``[B, H, N, D]`` bool, false on padding, of which nothing is promised."""
    starts = torch.tensor([row[0] for row in case.begins], device=output.device)
    column = torch.arange(case.length, device=output.device)
    return (column >= starts[:, None])[:, None, :, None].expand(output.shape)


def _gradient_error(got: Tensor, want: Tensor, inputs: Inputs, real: Tensor) -> float:
    """The largest relative error of a gradient, for a random gradient of the output."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(got.shape, generator=generator).to(got.device, got.dtype) * real
    grads = torch.autograd.grad((got * weight).sum(), inputs.leaves)
    expected = torch.autograd.grad((want * weight.double()).sum(), inputs.leaves)
    sizes = [grad.double().norm() / grad.numel() ** 0.5 for grad in expected]
    least = SHARE * max(sizes)
    errors = [
        (one.double() - other.double()).norm() / one.numel() ** 0.5 / max(size, least)
        for one, other, size in zip(grads, expected, sizes, strict=True)
    ]
    return max(float(error) for error in errors)
