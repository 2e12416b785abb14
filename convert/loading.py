"""Whether transformers finds every weight of a result, without reading any: the model stays on ``meta``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.errors import ConvertError
from convert.plan import Plan

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def check_loading(folder: Path, plan: Plan) -> None:
    """Load a result as its users will, but for the bytes of its weights.

    transformers renames, ties and joins tensors while loading; only its own loading knows which are missing.
    The windowed tier's classes are not part of this room: the class of its source has tensors of the same
    names, and their shapes were compared with the plan.

    Args:
        folder: The result.
        plan: What it should be.

    Raises:
        ConvertError: a tensor is missing, unexpected or of another shape.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config: PretrainedConfig | None = None
    kinds = ["missing_keys", "unexpected_keys"]
    if plan.form.tier == "windowed":
        keys = {key: value for key, value in plan.source.config.items() if key != "auto_map"}
        config = AutoConfig.for_model(keys.pop("model_type"), **keys)
    else:
        kinds.append("mismatched_keys")
    with _quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype="auto",
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    for kind in kinds:
        for key in sorted(map(str, loaded[1].get(kind, ()))):
            raise ConvertError(
                f"the result was not kept: transformers calls its tensor {key} {kind.removesuffix('_keys')}"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
