"""Registration with transformers' auto classes, and loading with everything checked."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from patches.remote import FAMILIES, GROUPED_FAMILIES


def register() -> None:
    """Teach transformers' auto classes every windowed and every grouped family."""
    for config, model, causal in FAMILIES + GROUPED_FAMILIES:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForCausalLM.register(config, causal, exist_ok=True)


def load(path: str | Path, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A checkpoint of any tier, ready to generate, and its tokenizer.

    Args:
        path: A folder or a hub id.
        options: What ``AutoModelForCausalLM.from_pretrained`` takes, such as ``dtype`` and ``device_map``.

    Returns:
        The model in evaluation mode, and the tokenizer, which pads on the left.

    Raises:
        PolicyError: the checkpoint asks for a window that cannot be put in force.
    """
    model = AutoModelForCausalLM.from_pretrained(path, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    return model, tokenizer
