"""How long a conversion takes beside ``cp -r``, safetensors and transformers, and how much memory.

python tests/benchmarks/conversion.py --size 3.5 --runs 5

Makes a checkpoint of random bfloat16 tensors in Llama-2-7B's shapes, with as many layers as the size asks
for, and lets every contender copy or convert it, one after the other, ``--runs`` times in turn. Each is a
process of its own, timed from start to end, imports included. The page cache is not emptied between runs: the
source is as warm as memory allows, for all alike. ``cp -r`` leaves its last gigabytes to be written later,
the conversion ends when all is on disk, as ``cp`` with ``sync`` does, and with ``--no-sync`` as ``cp`` alone
does; a ``sync`` after each run, not timed, evens that out for the next.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from convert.weights.header import encode_header

HIDDEN, INNER, VOCABULARY, HEADS = 4096, 11008, 32000, 32
SHARD_BYTES = 5_000_000_000
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
}
SAFETENSORS = """
import sys, pathlib, shutil
from safetensors.torch import load_file, save_file
source, target = map(pathlib.Path, sys.argv[1:])
target.mkdir()
for path in source.iterdir():
    if path.suffix == ".safetensors":
        save_file(load_file(path), target / path.name, {"format": "pt"})
    else:
        shutil.copy(path, target)
"""
TRANSFORMERS = """
import sys
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").save_pretrained(sys.argv[2])
"""
# In between, because the peak of a process counts what the one that started it held.
TIMED = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
wall = time.perf_counter() - began
print(json.dumps([wall, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""
CONTENDERS = {
    "cp": ["cp", "-r"],
    "cp-sync": ["sh", "-c", 'cp -r "$0" "$1" && sync -f "$1"'],
    "headroom": [sys.executable, "-m", "convert"],
    "headroom-no-sync": [sys.executable, "-m", "convert", "--no-sync"],
    "safetensors": [sys.executable, "-c", SAFETENSORS],
    "transformers": [sys.executable, "-c", TRANSFORMERS],
}
TITLES = {
    "cp": "`cp -r`",
    "cp-sync": "`cp -r`, then `sync`: on disk as well",
    "headroom": "`python -m convert SRC DST --kv-heads 8`",
    "headroom-no-sync": "`python -m convert SRC DST --kv-heads 8 --no-sync`",
    "safetensors": "safetensors: load and save every file, nothing converted",
    "transformers": "transformers: `from_pretrained` + `save_pretrained`, nothing converted",
}


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=float, default=3.5, help="least size of the source, in GB")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="the first is the baseline")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/headroom-benchmark"), help="must not exist")
    parser.add_argument("--keep", action="store_true", help="leave the source, or use the one left before")
    options = parser.parse_args()
    names = options.contenders.split(",")
    source = options.folder / f"source-{options.size:g}"
    if not (options.keep and source.exists()):
        options.folder.mkdir(parents=True, exist_ok=options.keep)
        make_checkpoint(source, options.size * 1e9)
    nbytes = sum(path.stat().st_size for path in source.iterdir())
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(options.runs):
        for name in names:
            taken[name].append(measure(name, source, options.folder / "target"))
            wall, peak = taken[name][-1]
            print(
                f"run {number + 1}: {name} {wall:.2f} s, {peak:.0f} MB, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    if not options.keep:
        shutil.rmtree(options.folder)
    show(nbytes, taken)


def make_checkpoint(folder: Path, nbytes: float) -> None:
    """Write a checkpoint of at least ``nbytes`` bytes in shards of at most 5 GB."""
    folder.mkdir()
    layer = [(f"self_attn.{name}_proj", (HIDDEN, HIDDEN)) for name in "qkvo"]
    layer += [("mlp.gate_proj", (INNER, HIDDEN)), ("mlp.up_proj", (INNER, HIDDEN))]
    layer += [("mlp.down_proj", (HIDDEN, INNER)), ("input_layernorm", (HIDDEN,))]
    layer += [("post_attention_layernorm", (HIDDEN,))]
    tensors = [("model.embed_tokens.weight", (VOCABULARY, HIDDEN)), ("lm_head.weight", (VOCABULARY, HIDDEN))]
    tensors.append(("model.norm.weight", (HIDDEN,)))
    layers = 0
    while sum(2 * int(np.prod(shape)) for _, shape in tensors) < nbytes:
        tensors += [(f"model.layers.{layers}.{name}.weight", shape) for name, shape in layer]
        layers += 1
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, shape in tensors:
        size = 2 * int(np.prod(shape))
        if filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += size
    files = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    numbers = random_bfloat16(1 << 25)
    for file, shard in zip(files, shards, strict=True):
        with (folder / file).open("wb") as out:
            sized = [(name, "BF16", shape, 2 * int(np.prod(shape))) for name, shape in shard]
            out.write(encode_header(sized))
            for _, _, _, size in sized:
                while size:
                    size -= out.write(numbers[:size])
    total = sum(2 * int(np.prod(shape)) for _, shape in tensors)
    index = {name: file for file, shard in zip(files, shards, strict=True) for name, _ in shard}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    os.sync()


def random_bfloat16(nbytes: int) -> memoryview:
    """Draw normal numbers of the size of weights, as bfloat16 bytes."""
    drawn = np.random.default_rng(0).standard_normal(nbytes // 2, dtype=np.float32) * 0.02
    return memoryview((drawn.view(np.uint32) >> 16).astype(np.uint16)).cast("B")


def measure(name: str, source: Path, target: Path) -> tuple[float, float]:
    """Run one contender in a process of its own; give its wall time in s and its peak memory in MB."""
    words = [*CONTENDERS[name], str(source), str(target)]
    if name.startswith("headroom"):
        words += ["--kv-heads", "8", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", TIMED, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    shutil.rmtree(target)
    os.sync()
    wall, peak = json.loads(done.stdout.splitlines()[-1])
    return wall, peak / 1e6


def show(nbytes: int, taken: dict[str, list[tuple[float, float]]]) -> None:
    """Print the table: medians, and the median of the ratios to the baseline of the same turn."""
    print(f"\n| {nbytes / 1e9:.1f} GB | wall | ratio to `cp -r` | peak memory |\n|---|---:|---:|---:|")
    baseline = [wall for wall, _ in next(iter(taken.values()))]
    for name, runs in taken.items():
        wall = statistics.median(wall for wall, _ in runs)
        ratio = statistics.median(run[0] / base for run, base in zip(runs, baseline, strict=True))
        print(f"| {TITLES[name]} | {wall:.1f} s | {ratio:.2f} | {max(peak for _, peak in runs):.0f} MB |")


if __name__ == "__main__":
    main()
