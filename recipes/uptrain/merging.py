"""Trained adapters into a checkpoint of the same tier as the converted one."""

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from peft import PeftModel

from recipes.uptrain.card import uptraining_section
from recipes.uptrain.weights import Weights

WEIGHTS = (".safetensors", ".safetensors.index.json")


def save_merged(model: PeftModel, converted: Path, destination: Path, history: dict[str, Any]) -> None:
    """Merge the adapters and write a checkpoint that loads exactly as the converted one does.

    Everything but the weights is the converted checkpoint's own: config, tokenizer and, in the windowed
    tier, the model code. Tensors keep their names and dtypes.

    Args:
        model: The trained model.
        converted: Folder of the checkpoint it was trained from.
        destination: Folder to write; replaced if a stopped run left one.
        history: What was done: but for its ``log`` the ``uptraining`` key of ``config.json``; all of it goes
            into the model card.
    """
    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(
        converted, partial, ignore=lambda _, names: [name for name in names if name.endswith(WEIGHTS)]
    )
    merged = model.merge_and_unload().state_dict()
    # A checkpoint may hold tensors that the model has no use for, such as old rotary buffers: they stay.
    kept = Weights(converted)
    weights = {name: merged.get(name, kept[name]).to(kept[name].dtype).contiguous() for name in kept}
    save_torch_state_dict(weights, partial)
    _annotate(partial, history)
    shutil.rmtree(destination, ignore_errors=True)
    partial.rename(destination)


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
