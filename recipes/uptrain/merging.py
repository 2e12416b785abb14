"""Trained adapters into a checkpoint of the same tier as the converted one."""

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from peft import PeftModel

from recipes.uptrain.weights import Weights

SINK_LOGITS = ".self_attn.sink_logits.weight"
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
        history: What was done, for the ``uptraining`` key of ``config.json``.
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
    added = [name for name in merged if name.endswith(SINK_LOGITS) and name not in kept]
    dtype = next(iter(weights.values())).dtype
    weights |= {name: merged[name].to(dtype).contiguous() for name in added}
    save_torch_state_dict(weights, partial)
    if added:
        _say_sink_logits(partial)
    _annotate(partial, history)
    shutil.rmtree(destination, ignore_errors=True)
    partial.rename(destination)


def _say_sink_logits(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["attention_window"]["sink_logits"] = True
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _annotate(folder: Path, history: dict[str, Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["uptraining"] = history
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    card = folder / "README.md"
    lines = [f"| {name} | {json.dumps(value)} |" for name, value in history.items()]
    table = "\n".join(["| | |", "|---|---|", *lines])
    card.write_text(card.read_text(encoding="utf-8") + f"\n## Uptraining\n\n{table}\n", encoding="utf-8")
