"""Trained adapters into a checkpoint of the same tier as the converted one."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from peft import PeftModel
from torch import Tensor

from recipes.errors import RecipeError
from recipes.uptrain.card import uptraining_section
from recipes.uptrain.weights import Weights, names_in_model

SINK_LOGITS = ".sink_logits.weight"
SAVED_WHOLE = re.compile(r"\.modules_to_save\.\w+\.")
"""Where ``peft`` keeps what it trains whole."""
WEIGHTS = (".safetensors", ".safetensors.index.json")


def save_merged(model: PeftModel, converted: Path, destination: Path, history: dict[str, Any]) -> None:
    """Merge the adapters and write a checkpoint that loads exactly as the converted one does.

    Everything but the weights is the converted checkpoint's own: config, tokenizer and, in the windowed
    tier, the model code. Tensors keep their names and dtypes; sink logits that were added come with the key
    of ``attention_window`` that says so.

    Args:
        model: The trained model.
        converted: Folder of the checkpoint it was trained from.
        destination: Folder to write; replaced if a stopped run left one.
        history: What was done: but for its ``log`` the ``uptraining`` key of ``config.json``; all of it goes
            into the model card.

    Raises:
        RecipeError: the converted checkpoint has no tensor for one that was trained.
    """
    weights, added = _merge(model, Weights(converted))
    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(
        converted, partial, ignore=lambda _, names: [name for name in names if name.endswith(WEIGHTS)]
    )
    save_torch_state_dict(weights, partial)
    if added:
        _say_sink_logits(partial)
    _annotate(partial, history)
    shutil.rmtree(destination, ignore_errors=True)
    partial.rename(destination)


def _merge(model: PeftModel, kept: Weights) -> tuple[dict[str, Tensor], bool]:
    """The tensors to write, named as the converted checkpoint's, and whether sink logits are among them."""
    trained, prefix = _trained_names(model), str(model.get_base_model().base_model_prefix)
    merged = model.merge_and_unload().state_dict()
    inside = names_in_model(kept, merged, prefix)
    bare = any(name != kept_as for kept_as, name in inside.items())
    added = [name for name in merged if name.endswith(SINK_LOGITS) and name not in inside.values()]
    lost = sorted(trained.difference(inside.values(), added))
    if lost:
        raise RecipeError(f"{lost[0]} was trained, and the converted checkpoint has no tensor of that name")
    # A checkpoint may hold tensors that the model has no use for, such as old rotary buffers: they stay.
    weights = {}
    for name in kept:
        before = kept[name]
        after = merged[inside[name]] if name in inside else before
        weights[name] = after.to(before.dtype).contiguous()
    dtype = next(iter(weights.values())).dtype
    for name in added:
        weights[name.removeprefix(f"{prefix}.") if bare else name] = merged[name].to(dtype).contiguous()
    return weights, bool(added)


def _trained_names(model: PeftModel) -> set[str]:
    """The tensors that training changed, by the names that they have once it is merged."""
    trained = (name for name, value in model.named_parameters() if value.requires_grad)
    names = (name.removeprefix("base_model.model.") for name in trained)
    return {
        f"{name.partition('.lora_')[0]}.weight" if ".lora_" in name else SAVED_WHOLE.sub(".", name)
        for name in names
    }


def _say_sink_logits(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["attention_window"]["sink_logits"] = True
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _annotate(folder: Path, history: dict[str, Any]) -> None:
    """Numbers and settings into the config, and the whole story under the card of the conversion."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    log = history["log"]
    config["uptraining"] = {name: value for name, value in history.items() if name != "log"}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    card = folder / "README.md"
    before = card.read_text(encoding="utf-8") if card.exists() else ""
    card.write_text(f"{before}\n{uptraining_section(history, log)}", encoding="utf-8")
