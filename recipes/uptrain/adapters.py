"""What is trained of a model, by ``peft``."""

from collections.abc import Iterator

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from patches.policy import PolicyError
from patches.sink_logits import SinkLogits, add_sink_logits
from recipes.errors import RecipeError
from recipes.schema import LoraPart
from recipes.uptrain.passes import attention_modules
from recipes.uptrain.projections import split_names


def add_adapters(model: PreTrainedModel, lora: LoraPart, layers: list[int]) -> PeftModel:
    """LoRA on the target projections; the ``full`` ones and norms are copied and trained whole.

    Args:
        model: The converted checkpoint.
        lora: What the recipe wants trained.
        layers: In which layers.

    Raises:
        RecipeError: the model's family keeps a target and a full projection in one module, or has no norms
            with weights, or no place for sink logits.
    """
    targets, full = split_names(model.config.model_type, lora.targets, lora.full)
    inside = _decoder_layers(model, layers)
    whole = {id(layer.get_submodule(name)) for layer in inside for name in full}
    if lora.norms:
        norms = {id(norm) for part in ([model] if lora.layers == "all" else inside) for norm in _norms(part)}
        if not norms:
            raise RecipeError(f"lora.norms: {type(model).__name__} has no norms with weights")
        whole |= norms
    if lora.sink_logits:
        whole |= _with_sink_logits(model)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules=targets,
        layers_to_transform=None if lora.layers == "all" else layers,
        modules_to_save=[name for name, module in model.named_modules() if id(module) in whole] or None,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


def _decoder_layers(model: nn.Module, layers: list[int]) -> list[nn.Module]:
    """The modules that hold the attention of some layers."""
    attention = attention_modules(model)
    wanted = {id(attention[layer]) for layer in layers}
    return [module for module in model.modules() if wanted & {id(child) for child in module.children()}]


def _with_sink_logits(model: PreTrainedModel) -> set[int]:
    """Add sink logits where there are none; the identities of their modules."""
    try:
        add_sink_logits(model)
    except PolicyError as error:
        raise RecipeError(f"lora.sink_logits: {error}") from None
    return {id(module) for module in model.modules() if isinstance(module, SinkLogits)}


def _norms(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.modules():
        if "Norm" in type(part).__name__ and next(part.parameters(recurse=False), None) is not None:
            yield part
