"""Train the tiny checkpoint: ``python -m recipes.tiny.train --output DIR``."""

import copy
import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
import typer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from recipes.tiny.curriculum import STAGES, batches
from recipes.tiny.needles import needle_rate
from recipes.tiny.tokenizer import train_tokenizer

PEAK_LR = 2e-3
WARMUP_STEPS = 60
REPORT_STEPS = 50


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with as many KV heads as query heads, 1.0M parameters, freshly initialized."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=16,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def learning_rate(step: int, progress: float) -> float:
    """Linear warmup, then constant; in the last stage, ``progress`` 0 to 1 through it, down to a fiftieth."""
    return PEAK_LR * min(1.0, (step + 1) / WARMUP_STEPS) * (1 - 0.98 * progress)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the checkpoint in bfloat16; the model in memory stays float32."""
    copy.deepcopy(model).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(output: Path, seed: int = 0, steps_scale: float = 1.0, start: Path | None = None) -> dict[str, int]:
    """Train and save, and save what there is with every line of progress.

    Args:
        output: Folder to write the checkpoint to.
        seed: Seed of the text, the tokenizer and the weights.
        steps_scale: Factor on the steps of every stage.
        start: Folder of a checkpoint to go on from; None for fresh weights and a fresh tokenizer.

    Returns:
        What the run took: ``seed``, ``steps``, ``tokens``, ``wall_s`` and ``threads``; also written to
        ``training.json`` in the folder.
    """
    torch.manual_seed(seed)
    if start is None:
        tokenizer = train_tokenizer(seed)
        model = build_model(tokenizer)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    stages = [dataclasses.replace(s, steps=max(1, round(s.steps * steps_scale))) for s in STAGES]
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.05)
    print(f"{model.num_parameters():,} parameters, at most {sum(s.steps for s in stages)} steps", flush=True)
    started, step, seen, smooth = time.monotonic(), 0, 0, 0.0
    for number, stage in enumerate(stages):
        source = batches(seed * 1000 + number, stage, tokenizer)
        rates = [0.0]
        for done in range(stage.steps):
            ids, weights = next(source)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, done / stage.steps if stage.goal is None else 0.0)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            loss = (losses * weights[:, 1:].flatten()).sum() / weights.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step, seen = step + 1, seen + ids.numel()
            smooth = loss.item() if step == 1 else 0.95 * smooth + 0.05 * loss.item()
            if (done + 1) % REPORT_STEPS and done + 1 < stage.steps:
                continue
            rates.append(needle_rate(model, tokenizer, stage.tokens, count=40, seed=seed + 10_000 + step))
            wall_s = time.monotonic() - started
            left_s = (stage.steps - done - 1) * stage.tokens * stage.batch * wall_s / seen
            print(
                f"step {step:>5}  {stage.tokens} tokens  loss {smooth:.3f}  needles {rates[-1]:.0%}"
                f"  {seen / wall_s:,.0f} tokens/s  {wall_s / 60:.1f} min, {left_s / 60:.1f} min left here",
                flush=True,
            )
            save(model, tokenizer, output)
            if stage.goal is not None and min(rates[-2:]) >= stage.goal:
                break
    save(model, tokenizer, output)
    facts = {
        "seed": seed,
        "steps": step,
        "tokens": seen,
        "wall_s": round(time.monotonic() - started),
        "threads": torch.get_num_threads(),
    }
    (output / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def main(
    output: Path = typer.Option(..., help="Folder for the checkpoint; it is created."),
    seed: int = typer.Option(0, help="Seed of text, tokenizer and weights."),
    steps_scale: float = typer.Option(
        1.0, min=0.001, help="Factor on the steps of every stage; 0.01 tries it."
    ),
    start: Path | None = typer.Option(None, help="Folder of a checkpoint to go on from."),
    threads: int = typer.Option(2, min=1, help="CPU threads."),
) -> None:
    """Train a 1.0M-parameter Llama on generated stories and needles, on CPU, and save it in bfloat16.

    The committed one took 1,450 steps: 76 minutes at the lowest priority on two busy cores; at the 6,000
    tokens/s that two cores of their own give, some 17.
    """
    torch.set_num_threads(threads)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"error: --output {output}: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    logging.disable_progress_bar()
    facts = train(output, seed, steps_scale, start)
    print(f"{output}: {facts['steps']} steps in {facts['wall_s'] / 60:.1f} minutes")


if __name__ == "__main__":
    typer.run(main)
