"""A decode step of a whole model: three models with the same weights, each with its own cache."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from eval.speed.attention import Contender, check_fits, check_runs, chosen_backends, own_name
from eval.speed.decode import captured
from eval.speed.records import OWN, Ask, Unable
from eval.speed.reference import relative
from eval.speed.timing import Work
from patches.attention.backends import AUTO, PREFIX, Backend
from patches.attention.scoring import Scoring
from patches.cache.windowed import WindowedCache
from patches.frame import Frame, Step

SLIDING = {"llama": "ministral", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Families whose weights a model of transformers with its own sliding window takes."""
SPARE = 4096
"""Positions beyond the length, for the steps that are timed."""


class Twins:
    """The same weights as a dense model, a windowed one and one with transformers' own sliding window."""

    def __init__(self, ask: Ask) -> None:
        """Make the dense one.

        Args:
            ask: Its ``checkpoint`` or, with random weights, its ``shape`` as a Llama.

        Raises:
            Unable: the weights do not fit, or the checkpoint's family has no windowed class.
        """
        self.ask = ask
        # Twice, because a model is made with weights of its own before it shares those of the dense one.
        check_fits(2 * ask.shape.weights_per_step * ask.element_bytes, ask.device, "fewer --layers need less")
        self.settings = _settings(ask)
        self.family = str(self.settings.pop("model_type")).removeprefix(PREFIX)
        if self.family not in SLIDING:
            raise Unable(f"models of type {self.family} are not timed; {', '.join(SLIDING)} are")
        self.shared: dict[tuple[str, str], Any] = {}
        self.dense = self._make(self.family, {}, "sdpa")
        if ask.checkpoint is not None:
            weights = AutoModelForCausalLM.from_pretrained(ask.checkpoint, dtype=ask.dtype).state_dict()
            kept = {name: tensor for name, tensor in weights.items() if name in self.dense.state_dict()}
            self.dense.load_state_dict(kept)

    def windowed(self, attention: str) -> Any:
        """Headroom's model, which attends by ``attention``."""
        ask = self.ask
        policy = {"size": ask.window, "sinks": ask.sinks, "positions": "absolute", "global_layers": []}
        return self._share(PREFIX + self.family, {"attention_window": policy}, attention)

    def sliding(self) -> Any:
        """The model of transformers that has a window of its own, without sinks."""
        types = ["sliding_attention"] * self.ask.shape.layers
        changes = {"sliding_window": self.ask.window, "layer_types": types, "use_sliding_window": True}
        return self._share(SLIDING[self.family], changes, "sdpa")

    def _make(self, family: str, changes: dict[str, Any], attention: str) -> Any:
        config = AutoConfig.for_model(family, **self.settings | changes)
        torch.manual_seed(self.ask.seed)
        with self.ask.device:
            model = AutoModelForCausalLM.from_config(
                config, dtype=self.ask.dtype, attn_implementation=attention
            )
        return model.eval()

    def _share(self, family: str, changes: dict[str, Any], attention: str) -> Any:
        if (family, attention) not in self.shared:
            model = self._make(family, changes, attention)
            model.load_state_dict(self.dense.state_dict(), assign=True)
            self.shared[family, attention] = model
        return self.shared[family, attention]


def _settings(ask: Ask) -> dict[str, Any]:
    """The config of the dense model, with positions enough for the longest row."""
    longest = max(ask.lengths) + SPARE
    if ask.checkpoint is not None:
        config = AutoConfig.from_pretrained(ask.checkpoint)
        settings: dict[str, Any] = config.to_dict()
        for key in ("attention_window", "layer_types", "auto_map", "dtype"):
            settings.pop(key, None)
        # Left out, it would be the 4096 that a Mistral slides over by default.
        settings["sliding_window"] = None
        settings["max_position_embeddings"] = max(longest, settings.get("max_position_embeddings") or 0)
        settings["num_hidden_layers"] = ask.shape.layers
        return settings
    shape = ask.shape
    return {
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": longest,
    }


def model_contenders(twins: Twins, length: int, batch: int) -> list[Contender]:
    """Every way to decode one token after ``length`` others.

    Args:
        twins: The models.
        length: Tokens that the caches have seen; their keys and values are random.
        batch: Rows.
    """
    return [
        *(
            Contender(own_name(backend), "window + sinks", partial(_own, twins, backend, length, batch))
            for backend in chosen_backends(twins.ask.backends)
        ),
        Contender(f"{OWN}, static cache", "window + sinks", partial(_static, twins, length, batch)),
        Contender("transformers' sliding window", "window", partial(_stock, twins, length, batch, True)),
        Contender("transformers' dynamic cache", "dense", partial(_stock, twins, length, batch, False)),
    ]


def _own(twins: Twins, backend: Backend, length: int, batch: int) -> tuple[Work, float]:
    ask = twins.ask
    query = torch.empty(batch, ask.shape.heads, 1, ask.shape.head_dim, dtype=ask.dtype, device=ask.device)
    check_runs(backend, query, Frame(Step(length), 1, ask.window, ask.sinks), Scoring(1.0))
    model = twins.windowed(PREFIX + backend.name)
    return _prepare(twins, model, WindowedCache(model.config), length, batch, "window + sinks")


@torch.inference_mode()
def _static(twins: Twins, length: int, batch: int) -> tuple[Work, float]:
    """The static cache, which the model alone fills: checked against a growing one after the same prompt.

    The growing one has been checked against the dense model in a row of its own.
    """
    ask, model = twins.ask, twins.windowed(AUTO)
    generator = torch.Generator(ask.device).manual_seed(ask.seed + length)
    ids = torch.randint(ask.shape.vocab, (batch, length), generator=generator, device=ask.device)
    token = ids[:, :1]
    caches = [WindowedCache(model.config), WindowedCache(model.config, max_length=length + SPARE)]
    for cache in caches:
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    want, got = (model(input_ids=token, past_key_values=c, use_cache=True).logits for c in caches)
    return _work(model, caches[1], token), relative(got, want)


def _stock(twins: Twins, length: int, batch: int, sliding: bool) -> tuple[Work, float]:
    model = twins.sliding() if sliding else twins.dense
    stored = min(length, twins.ask.window) if sliding else length
    check_fits(
        2 * twins.ask.shape.layers * twins.ask.shape.cache_bytes(stored, batch, twins.ask.element_bytes),
        twins.ask.device,
    )
    cache = DynamicCache(config=model.config)
    return _prepare(twins, model, cache, length, batch, "window" if sliding else "dense")


@torch.inference_mode()
def _prepare(
    twins: Twins, model: Any, cache: Any, length: int, batch: int, computes: str
) -> tuple[Work, float]:
    """Fill the cache, check the first step, and give the next ones as the work."""
    ask = twins.ask
    _fill(cache, ask, length, batch)
    token = torch.full((batch, 1), 1, device=ask.device)
    got = model(input_ids=token, past_key_values=cache, use_cache=True).logits
    error = relative(got, _expected(twins, token, length, computes))
    return _work(model, cache, token), error


def _work(model: Any, cache: Any, token: Tensor) -> Work:
    """One more step each time; a CUDA graph of it where the cache is made for that."""

    @torch.inference_mode()
    def step() -> Tensor:
        logits: Tensor = model(input_ids=token, past_key_values=cache, use_cache=True).logits
        return logits

    capturable = token.device.type == "cuda" and getattr(cache, "is_compileable", False)
    return captured(step) if capturable else step


def _fill(cache: Any, ask: Ask, length: int, batch: int) -> None:
    """Let every layer see the same ``length`` random tokens, whatever the cache keeps of them."""
    shape = ask.shape
    generator = torch.Generator(ask.device).manual_seed(ask.seed + length)
    size = (batch, shape.kv_heads, length, shape.head_dim)
    for layer in range(shape.layers):
        key, value = (
            torch.randn(size, generator=generator, dtype=ask.dtype, device=ask.device) for _ in range(2)
        )
        cache.update(key, value, layer)


def _expected(twins: Twins, token: Tensor, length: int, computes: str) -> Tensor:
    """Logits of the dense model under a mask that says what ``computes`` does."""
    ask = twins.ask
    check_fits(ask.shape.layers * ask.shape.cache_bytes(length, len(token), ask.element_bytes), ask.device)
    cache = DynamicCache(config=twins.dense.config)
    _fill(cache, ask, length, len(token))
    column = torch.arange(length + 1, device=ask.device)
    seen = length - column < ask.window
    if computes == "window + sinks":
        seen |= column < ask.sinks
    elif computes == "dense":
        seen = torch.ones_like(seen)
    mask = seen[None, None, None].expand(len(token), -1, -1, -1)
    position = torch.full_like(token, length)
    logits: Tensor = twins.dense(
        input_ids=token, past_key_values=cache, attention_mask=mask, position_ids=position
    ).logits
    return logits
