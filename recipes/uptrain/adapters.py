"""What is trained of a model, by ``peft``."""

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from recipes.schema import LoraPart
from recipes.uptrain.projections import split_names


def add_adapters(model: PreTrainedModel, lora: LoraPart) -> PeftModel:
    """LoRA on the target projections; the ``full`` ones are copied and trained whole.

    Raises:
        RecipeError: the model's family keeps some of both in one module.
    """
    targets, full = split_names(model.config.model_type, lora.targets, lora.full)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=full or None,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted
