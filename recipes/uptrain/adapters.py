"""What is trained of a model, by ``peft``."""

from collections.abc import Iterator

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from recipes.errors import RecipeError
from recipes.schema import LoraPart
from recipes.uptrain.passes import attention_modules


def add_adapters(model: PreTrainedModel, lora: LoraPart, layers: list[int]) -> PeftModel:
    """LoRA on the target projections; the ``full`` ones and norms are copied and trained whole.

    Args:
        model: The converted checkpoint.
        lora: What the recipe wants trained.
        layers: In which layers.

    Raises:
        RecipeError: attention has no such projection, or there are no norms with weights.
    """
    attention = attention_modules(model)
    chosen = [attention[layer] for layer in layers]
    for kind, names in (("targets", lora.targets), ("full", lora.full)):
        _check(kind, names, chosen)
    whole = {id(getattr(module, name)) for module in chosen for name in lora.full}
    if lora.norms:
        parts = _decoder_layers(model, chosen) if lora.layers != "all" else [model]
        norms = {id(norm) for part in parts for norm in _norms(part)}
        if not norms:
            raise RecipeError(f"lora.norms: {type(model).__name__} has no norms with weights")
        whole |= norms
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules=list(lora.targets),
        layers_to_transform=None if lora.layers == "all" else layers,
        modules_to_save=[name for name, module in model.named_modules() if id(module) in whole] or None,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


def _check(kind: str, names: list[str], attention: list[nn.Module]) -> None:
    for module in attention:
        has = [name for name, child in module.named_children() if getattr(child, "weight", None) is not None]
        missing = [name for name in names if name not in has]
        if missing:
            raise RecipeError(f"lora.{kind}: attention has no {missing[0]!r}; it has {', '.join(has)}")


def _decoder_layers(model: nn.Module, attention: list[nn.Module]) -> list[nn.Module]:
    """The layers that the modules of attention are in."""
    wanted = {id(module) for module in attention}
    return [module for module in model.modules() if any(id(child) in wanted for child in module.children())]


def _norms(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.modules():
        if "Norm" in type(part).__name__ and next(part.parameters(recurse=False), None) is not None:
            yield part
