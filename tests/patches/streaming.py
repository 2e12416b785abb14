"""StreamingLLM said in the plainest way: kept keys are rotated anew, by where they stand in the cache."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.patches.tiny import dense_model


def streamed_twin(model: PreTrainedModel) -> PreTrainedModel:
    """The model of transformers with the same weights, whose attention is the function below."""
    twin, policy = dense_model(model), model.config.window_policy
    for index, layer in enumerate(twin.model.layers):
        layer.self_attn.forward = _forward(
            layer.self_attn, twin.model.rotary_emb, policy.window_of(index), policy.sinks
        )
    return twin


def _forward(attention: nn.Module, rotary: nn.Module, window: int | None, sinks: int):
    def forward(hidden_states: Tensor, **_: object) -> tuple[Tensor, None]:
        shape = (*hidden_states.shape[:-1], -1, attention.head_dim)
        query, key, value = (
            getattr(attention, f"{name}_proj")(hidden_states).view(shape).transpose(1, 2) for name in "qkv"
        )
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        group = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(group, dim=1) for part in (key, value))
        rows = [
            _attend(query[:, :, i], key, value, i, window, sinks, rotary, attention.scaling)
            for i in range(query.shape[2])
        ]
        output = torch.stack(rows, dim=1).flatten(2)
        return getattr(attention, "o_proj" if hasattr(attention, "o_proj") else "dense")(output), None

    return forward


def _attend(query, key, value, i, window, sinks, rotary, scale) -> Tensor:
    """Query ``i`` ``[B, H, D]`` on the keys that its cache keeps, ``[B, H, D]``."""
    kept = [j for j in range(i + 1) if window is None or i - j < window or j < sinks]
    places = torch.arange(len(kept))
    keys = rotate(key[:, :, kept], places, rotary)
    turned = rotate(query[:, :, None], places[-1:], rotary)
    weights = torch.softmax((turned * keys).sum(-1) * scale, dim=-1)
    return (weights[..., None] * value[:, :, kept]).sum(2)


def rotate(states: Tensor, positions: Tensor, rotary: nn.Module) -> Tensor:
    """``[B, H, N, D]`` rotated as complex numbers by ``positions`` ``[N]``, as the rotary module would."""
    angle = positions[:, None].double() * rotary.inv_freq.double()
    half = angle.shape[-1]
    pairs = torch.complex(states[..., :half].double(), states[..., half : 2 * half].double())
    pairs = pairs * torch.polar(torch.ones_like(angle), angle) * rotary.attention_scaling
    turned = torch.cat([pairs.real, pairs.imag], dim=-1).to(states.dtype)
    return torch.cat([turned, states[..., 2 * half :]], dim=-1)
