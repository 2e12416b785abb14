"""The command line's words as an ``Ask``."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

from eval.caches.records import BASELINE, Ask
from eval.checkpoint import DTYPES, find_checkpoint, pick_device, pick_dtype
from eval.errors import EvalError, unknown_name
from eval.retrieval import KINDS
from eval.speed.timing import WARM_UP
from eval.text import read_text
from patches.cache.policies import POLICIES, parse
from patches.cache.policies.policy import Kind
from patches.policy import PolicyError


def build_ask(
    path: str,
    policies: str | None,
    window_policies: str,
    *,
    text: Path | None,
    lengths: Sequence[int],
    samples: int,
    kinds: Sequence[str],
    chunk: int,
    peers: bool,
    runs: int,
    device: str,
    dtype: str,
    threads: int | None,
    seed: int,
) -> Ask:
    """Check what the user asked for.

    Args:
        path: A checkpoint folder.
        policies: For global layers, separated by commas: ``int4,heavy-hitter:budget=128,recent=32``.
            None: every policy, as it is by default.
        window_policies: For window layers; each is measured with each of ``policies``.
        text: A file, or None for the built-in text.
        lengths: These and those that follow as in ``Ask``; a dtype of ``auto`` is the checkpoint's own.

    Raises:
        EvalError: a name or a number that cannot be.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise EvalError(unknown_name("kind of retrieval", kind, KINDS))
    if policies is None:
        policies = ",".join(policy.name for policy in POLICIES.values() if "global" in policy.kinds)
    pairs = product(split_specs(policies, "global"), split_specs(window_policies, "window"))
    checkpoint = find_checkpoint(Path(path).name, path)
    checkpoint.check_length(max(lengths) + runs + WARM_UP, f"--lengths + {runs} timed steps + {WARM_UP}")
    where = pick_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise EvalError(f"dtype {dtype!r} is not known: auto, {', '.join(DTYPES)}")
    return Ask(
        checkpoint=checkpoint,
        policies=tuple(dict.fromkeys([(BASELINE, BASELINE), *pairs])),
        text=read_text(text),
        lengths=tuple(sorted(set(lengths))),
        samples=samples,
        kinds=tuple(dict.fromkeys(kinds)),
        chunk=chunk,
        peers=peers,
        runs=runs,
        device=where,
        # A cache is served in the dtype of its checkpoint, and its bytes are counted in it.
        dtype=checkpoint.stored_dtype if dtype == "auto" else pick_dtype(dtype, where, checkpoint),
        threads=threads or torch.get_num_threads(),
        seed=seed,
    )


def split_specs(text: str, kind: Kind) -> list[str]:
    """Policies separated by commas, whose settings are separated by commas too.

    Raises:
        EvalError: a policy or a setting is unknown, or a value out of range.
    """
    specs: list[str] = []
    for part in text.split(","):
        # A setting has "=" before any ":", a policy does not.
        if specs and "=" in part.partition(":")[0]:
            specs[-1] += f",{part}"
        else:
            specs.append(part)
    try:
        return [parse(spec, kind).spec for spec in specs]
    except PolicyError as error:
        raise EvalError(str(error)) from None
