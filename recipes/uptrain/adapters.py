"""What is trained of a model, by ``peft``."""

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from recipes.schema import LoraPart


def add_adapters(model: PreTrainedModel, lora: LoraPart) -> PeftModel:
    """LoRA on the target projections; the ``full`` ones are copied and trained whole."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        modules_to_save=list(lora.full) or None,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted
