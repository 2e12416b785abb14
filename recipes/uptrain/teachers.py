"""Who says what the student should have said."""

from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from recipes.errors import RecipeError
from recipes.schema import UptrainPart


def load_teacher(part: UptrainPart, teacher: Path, student: PeftModel) -> PreTrainedModel | None:
    """The source, frozen, in the dtype of its checkpoint; None when no loss asks for it.

    Args:
        part: The recipe's training, for its weights.
        teacher: The source checkpoint.
        student: The adapted model.

    Raises:
        RecipeError: the two have different vocabularies.
    """
    if not (part.kl_weight or part.attention_weight):
        return None
    model = AutoModelForCausalLM.from_pretrained(teacher).eval().requires_grad_(False)
    ours, theirs = cast(Any, student.get_base_model()).config.vocab_size, model.config.vocab_size
    if ours != theirs:
        raise RecipeError(f"the teacher's vocabulary has {theirs} tokens, the student's {ours}; KL needs one")
    assert isinstance(model, PreTrainedModel)
    return model
