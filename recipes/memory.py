"""Peak memory of an uptraining on each GPU, from arithmetic.

The peak is at the end of a forward pass, when everything below is there at once. Not counted: the CUDA
context and its libraries (about 1 GiB), workspaces of kernels, and what the allocator loses to fragments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from recipes.schema import Recipe, UptrainPart
from recipes.shapes import source_config
from recipes.uptrain.adapters import add_adapters
from recipes.uptrain.distillation import SCORES

FLOAT32, BFLOAT16 = 4, 2
"""Bytes of a number."""
ADAM = 2
"""Numbers that AdamW keeps for each that it trains; beside them a counter for each tensor, in float32. With
``optimizer: adamw_8bit`` they are single bytes, and constants of their blocks are not counted."""
COPIES = 6
"""Tensors of ``SCORES`` numbers, float32, that a loss holds at a time: logits, softmaxes and gradients."""


@dataclass(frozen=True)
class Counts:
    """What a training holds, in numbers: counted in models without memory, so that it is exact.

    Attributes:
        student: Of the student, with adapters and the originals of what is trained whole.
        teacher: Of the source.
        beside: Of those, keys' and values' projections whose heads the conversion merged.
        trained: Of the student's, those that are trained.
        tensors: In how many tensors those are.
        layer: Of one layer of the student, without originals that are not used.
        head: Of its head.
        ends: Of its embedding and head; once where they are tied.
        config: The student's, for the sizes of its activations.
    """

    student: int
    teacher: int
    beside: int
    trained: int
    tensors: int
    layer: int
    head: int
    ends: int
    config: Any


@dataclass(frozen=True)
class Item:
    """A part of the peak: its name, and bytes on one GPU."""

    name: str
    nbytes: int


def count(part: UptrainPart, source: Any, kv_heads: int) -> Counts:
    """Count the numbers of a training without any memory for them.

    Args:
        part: The recipe's training.
        source: The source's config.
        kv_heads: KV heads of every layer of the student.
    """
    config = type(source).from_dict(source.to_dict() | {"num_key_value_heads": kv_heads})
    with torch.device("meta"):
        teacher = AutoModelForCausalLM.from_config(source)
        # Which layers are windowed, the source does not say: at most all of them are trained.
        chosen = part.lora.layers
        layers = chosen if isinstance(chosen, list) else list(range(config.num_hidden_layers))
        # The stock class has no place for sink logits; those of all layers are added below.
        lora = part.lora.model_copy(update={"sink_logits": False})
        student = add_adapters(AutoModelForCausalLM.from_config(config), lora, layers)
    base: Any = student.get_base_model()
    trained = [value for value in student.parameters() if value.requires_grad]
    embedding, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    used = [
        value for name, value in base.model.layers[0].named_parameters() if ".original_module." not in name
    ]
    logits = part.lora.sink_logits * config.num_attention_heads
    of_logits = config.num_hidden_layers * logits
    return Counts(
        # With the originals of the logits beside those that are trained.
        student=sum(value.numel() for value in student.parameters()) + 2 * of_logits,
        teacher=sum(value.numel() for value in teacher.parameters()),
        beside=(kv_heads != source.num_key_value_heads)
        * sum(
            value.numel()
            for name, value in teacher.named_parameters()
            if name.split(".")[-2] in ("k_proj", "v_proj")
        ),
        trained=sum(value.numel() for value in trained) + of_logits,
        tensors=len(trained) + part.lora.sink_logits * config.num_hidden_layers,
        layer=sum(value.numel() for value in used) + logits,
        head=head.numel(),
        ends=head.numel() + (embedding is not head) * embedding.numel(),
        config=config,
    )


def estimate(part: UptrainPart, counts: Counts, gpus: int = 1) -> list[Item]:
    """Bytes of every part of the peak on one GPU.

    With several GPUs weights, gradients and optimizer are in equal parts on all of them (FSDP2); activations
    are each one's own. So are gradients where a step has several passes: they are summed over the GPUs after
    the last one, and until then each GPU has all of its own.

    Args:
        part: The recipe's training.
        counts: What it holds.
        gpus: That share it.
    """
    return [item for item in _items(part, counts, gpus) if item.nbytes]


def _items(part: UptrainPart, counts: Counts, gpus: int) -> Iterator[Item]:
    tokens = max(stage.batch_size * stage.length for stage in part.stages)
    compute = BFLOAT16 if part.bf16 else FLOAT32
    taught = part.teacher.kind != "saved" and bool(part.kl_weight or part.attention_weight)
    state = FLOAT32 if part.optimizer == "adamw" else 1
    yield Item("student", counts.student * FLOAT32 // gpus)
    yield Item("teacher", taught * _teacher(part, counts) // gpus)
    whole = gpus > 1 and part.accumulate > 1
    yield Item("gradients", counts.trained * FLOAT32 // (1 if whole else gpus))
    yield Item("AdamW", ADAM * counts.trained * state // gpus + counts.tensors * FLOAT32)
    yield Item("weights in use", _weights_in_use(part, counts, gpus, compute, taught))
    yield Item("activations", activation_bytes(part, counts) * tokens)
    if part.attention_weight:
        # Of every layer that is compared: the student's output, the teacher's, their difference in float32.
        named = part.attention_layers
        compared = counts.config.num_hidden_layers if isinstance(named, str) else len(named)
        width = counts.config.hidden_size * compared
        yield Item("attention outputs", width * (compute + BFLOAT16 + FLOAT32) * tokens)
    yield Item("logits", _logits(counts, tokens, gpus, compute, taught))


def _teacher(part: UptrainPart, counts: Counts) -> int:
    """Bytes of the weights that are the teacher's alone; ``auto`` is taken to be a dtype of 16 bits."""
    said = part.teacher
    if said.kind == "shared":
        return counts.beside * FLOAT32
    if said.offload == "cpu":
        return 0
    return counts.teacher * (
        1 if said.quantization == "8bit" else FLOAT32 if said.dtype == "float32" else BFLOAT16
    )


def _weights_in_use(part: UptrainPart, counts: Counts, gpus: int, compute: int, taught: bool) -> int:
    """Copies of weights beside those that are held.

    One GPU: autocast makes a bfloat16 copy of every weight that it multiplies with, which stays for the
    backward pass, or with checkpointing for the layer that is computed again. Several: the layer that is
    computed and the next one are gathered whole, embedding and head stay so.
    """
    if gpus > 1:
        teacher = counts.ends * BFLOAT16 if taught else 0
        return (2 * counts.layer + counts.ends) * compute + teacher
    if compute == FLOAT32:
        return 0
    layers = 1 if part.gradient_checkpointing else counts.config.num_hidden_layers
    return (layers * counts.layer + counts.head) * BFLOAT16


def activation_bytes(part: UptrainPart, counts: Counts) -> int:
    """Bytes that the backward pass needs of the forward pass, for each token; the head and the loss aside.

    With ``E`` the hidden size, ``I`` that of the MLP, ``H`` and ``K`` heads of ``D``, and ``c`` bytes of a
    number that is computed with (2 under ``bf16``, else 4), every layer keeps::

        8 E                    the residual stream, float32, before each of its two norms
        c E (n)                inputs of the trained among q, k, v; in float32 they are one tensor
        c (2 H D + 2 K D)      queries, keys, values and outputs of the attention, as FlashAttention does
        c H D                  the input of a trained output projection
        3 c I                  gate, its activation, and what it is multiplied with

    and a frozen projection nothing. With checkpointing every layer keeps its input, 4 E, and one layer is
    there whole while it is computed again. At the end come 8 E for the last norm and the head.

    Args:
        part: The recipe's training.
        counts: What it holds.

    Source: counted as in Korthikanti et al., arXiv 2205.05198, section 4, without what frozen weights spare.
    Holds: within a tenth of what autograd saves (tests/recipes/test_memory.py).
    """
    config, compute = counts.config, BFLOAT16 if part.bf16 else FLOAT32
    hidden, heads = config.hidden_size, config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    trained = {*part.lora.targets, *part.lora.full}
    readers = len(trained & {"q_proj", "k_proj", "v_proj"})
    inputs = readers if part.bf16 else min(readers, 1)
    layer = 2 * FLOAT32 * hidden + compute * (
        inputs * hidden
        + 2 * (heads + config.num_key_value_heads) * head_dim
        + ("o_proj" in trained) * heads * head_dim
        + 3 * config.intermediate_size
    )
    layers, end = config.num_hidden_layers, 2 * FLOAT32 * hidden
    if part.gradient_checkpointing:
        return layers * FLOAT32 * hidden + layer + end
    return layers * layer + end


def _logits(counts: Counts, tokens: int, gpus: int, compute: int, taught: bool) -> int:
    """Scores over the vocabulary.

    One GPU: so many tokens at a time that there are ``SCORES``. Several: logits of the whole pass too, of
    student and teacher, and the gradient of the student's, because each GPU has only a part of the head.
    """
    scores = tokens * counts.config.vocab_size
    piece = COPIES * min(scores, SCORES) * FLOAT32
    return piece + (scores * (2 * compute + taught * BFLOAT16) if gpus > 1 else 0)


def describe_memory(recipe: Recipe, part: UptrainPart, gpus: int) -> str:
    """One line about the peak of a recipe's training on each GPU.

    Args:
        recipe: The recipe.
        part: Its training.
        gpus: That share it.
    """
    source: Any = source_config(recipe.source)
    if source is None:
        return f"memory: estimated when {recipe.source} is here"
    if not all(hasattr(source, name) for name in ("intermediate_size", "num_key_value_heads")):
        return f"memory: not estimated for {source.model_type}, whose layers are not those of a Llama"
    heads = str(recipe.convert.kv_heads or source.num_key_value_heads).rpartition(":")[2]
    found = estimate(part, count(part, source, max(1, int(float(heads)))), gpus)
    listed = ", ".join(f"{item.name} {_amount(item.nbytes)}" for item in found)
    where = f"each of {gpus} GPUs" if gpus > 1 else "one GPU"
    return f"memory: {_amount(sum(item.nbytes for item in found))} on {where} ({listed})"


def _amount(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**29 else f"{nbytes / 2**20:.1f} MiB"
