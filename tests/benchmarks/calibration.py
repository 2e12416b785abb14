"""How long a calibrated conversion takes per layer, and whether its memory grows with the number of layers.

    python tests/benchmarks/calibration.py --layers 2 4 --tokens 4096

Makes checkpoints of random bfloat16 tensors in a model's shapes, but with 32 KV heads so that there is
something to merge, one per number of layers, and converts each to 8 KV heads with ``subspace``, a text and
``--refit``, in a process of its own. The text is the held-out text of ``recipes/tiny``, by its tokenizer.
``--group search`` less ``--group adjacent`` is what the search for groups takes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

TINY = Path(__file__).parents[2] / "recipes" / "tiny"
VOCABULARY, HEADS = 32000, 32


class Sizes(NamedTuple):
    """Of one layer: hidden states, inside its MLP, and of a head."""

    hidden: int
    inner: int
    head_dim: int


SHAPES = {"tinyllama-1.1b": Sizes(2048, 5632, 64), "llama-2-7b": Sizes(4096, 11008, 128)}
# In between, because the peak of a process counts what the one that started it held.
TIMED = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
wall = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([wall, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss]))
"""


def main() -> None:
    """Convert checkpoints of several depths and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--group", choices=["adjacent", "search"], default="adjacent")
    parser.add_argument("--steps", type=int, default=0, help="steps of --reconstruct")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print("| layers | whole process | processor time | peak memory |\n|---:|---:|---:|---:|", flush=True)
    taken = []
    for layers in arguments.layers:
        work = Path(tempfile.mkdtemp(prefix="headroom-calibration-"))
        try:
            make_checkpoint(work / "source", SHAPES[arguments.shape], layers)
            wall_s, processor_s, peak = measure(work, arguments)
        finally:
            shutil.rmtree(work)
        taken.append((layers, wall_s))
        print(f"| {layers} | {wall_s:.1f} s | {processor_s:.1f} s | {peak / 2**30:.2f} GiB |", flush=True)
    (few, few_s), (many, many_s) = taken[0], taken[-1]
    if many > few:
        print(f"{(many_s - few_s) / (many - few):.1f} s per further layer of {arguments.tokens} tokens")


def make_checkpoint(folder: Path, sizes: Sizes, layers: int) -> None:
    """Write a checkpoint of random tensors, and the tiny checkpoint's tokenizer."""
    folder.mkdir()
    hidden, inner, head_dim = sizes
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "num_hidden_layers": layers,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / "checkpoint" / name, folder)
    torch.manual_seed(0)
    shapes = {"model.embed_tokens": (VOCABULARY, hidden), "lm_head": (VOCABULARY, hidden)}
    norms = ["model.norm"]
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        norms += [f"{prefix}.input_layernorm", f"{prefix}.post_attention_layernorm"]
        shapes |= {f"{prefix}.self_attn.{name}_proj": (hidden, HEADS * head_dim) for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj": (inner, hidden) for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj"] = (hidden, inner)
    tensors = {f"{name}.weight": torch.randn(shape).mul(0.02).bfloat16() for name, shape in shapes.items()}
    tensors |= {f"{name}.weight": torch.ones(hidden, dtype=torch.bfloat16) for name in norms}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def measure(work: Path, arguments: argparse.Namespace) -> tuple[float, float, int]:
    """Convert in a process of its own; wall and processor time in seconds and peak memory in bytes."""
    command = [sys.executable, "-m", "convert", work / "source", work / "result", "--kv-heads", 8]
    command += ["--merge", "subspace", "--calibrate", TINY / "heldout.txt", "--refit"]
    command += ["--calibrate-tokens", arguments.tokens, "--calibrate-batch", arguments.batch]
    command += ["--reconstruct", arguments.steps, "--device", arguments.device, "--group", arguments.group]
    environment = os.environ | {"PYTHONPATH": str(TINY.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", TIMED, *map(str, command)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    wall_s, processor_s, peak = json.loads(done.stdout)
    return wall_s, processor_s, peak


if __name__ == "__main__":
    main()
