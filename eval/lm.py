"""lm-eval's models, except that they refuse what they would have cut, and say how they ran."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor

from eval.checkpoint import Loaded
from eval.errors import EvalError
from eval.logits import rows_at_a_time
from eval.memory import held_bytes
from eval.parallel import Peers

ENDLESS = 1 << 24
"""Length limit given to lm-eval for checkpoints whose positions live in the cache."""


class Strict:
    """Mixed into a model class of lm-eval: the BOS token in front, and no request is cut.

    Attributes:
        label: The checkpoint's name, for messages.
        bos_text: Put before every prompt that does not begin with it; may be empty.
        peers: The other processes. They refuse together: one that went on would wait for ever.
        longest_scored: Prompt and continuation tokens of the longest log-likelihood request.
        notes: By kind of request, how it was run, for the report.

    Holds: an overlong request raises and names its task (tests/eval/test_tasks.py).
    """

    label: str
    bos_text: str
    peers: Peers
    longest_scored: int
    notes: dict[str, dict[str, Any]]
    max_length: Any
    max_gen_toks: Any
    tok_encode: Any
    _tasks: Sequence[str] = ()

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        """As lm-eval's, of prompts that begin with BOS."""
        self._tasks = [str(request.task_name) for request in requests]
        scored = super().loglikelihood(self._with_bos(requests), disable_tqdm=True)  # type: ignore[misc]
        self._tasks = ()
        return scored

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, **kwargs: Any) -> Any:
        """As lm-eval's.

        Raises:
            EvalError: a request is longer than the checkpoint's positions, in any process.
        """
        # Rolling requests come without names: lm-eval has cut them into windows that fit.
        if self._tasks:
            lengths = [(len(context), len(continuation)) for _, context, continuation in requests]
            self._refuse_together(
                f"task {task!r}: a request of {context} prompt + {continuation} continuation tokens"
                for task, (context, continuation) in zip(self._tasks, lengths, strict=True)
                if context + continuation > self.longest_scored
            )
            self._prepare("loglikelihood", max(map(sum, lengths)))
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, **kwargs)  # type: ignore[misc]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        """As lm-eval's, of prompts that begin with BOS.

        Raises:
            EvalError: a prompt and the answer that it allows are longer than the checkpoint's positions.
        """
        requests = self._with_bos(requests)
        lengths = [self._generated_length(request) for request in requests]
        self._refuse_together(
            f"task {request.task_name!r}: a request of {prompt} prompt + {answer} generated tokens"
            for request, (prompt, answer) in zip(requests, lengths, strict=True)
            if prompt + answer > self.max_length
        )
        self._prepare("generate_until", max(map(sum, lengths)))
        return super().generate_until(requests, disable_tqdm=True)  # type: ignore[misc]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        """As lm-eval's, whose windows follow each other through texts of any length."""
        longest = max(len(self.tok_encode(request.args[0])) for request in requests) + 1
        self._prepare("loglikelihood_rolling", min(longest, self.max_length))
        return super().loglikelihood_rolling(requests, disable_tqdm=True)  # type: ignore[misc]

    def _prepare(self, kind: str, longest: int) -> None:
        """Called before requests of one kind run, with the tokens of the longest."""

    def _generated_length(self, request: Any) -> tuple[int, int]:
        """Tokens of the prompt, and most tokens of the answer."""
        prompt, settings = request.args
        answer = normalize_gen_kwargs(settings, self.max_gen_toks)["max_gen_toks"]
        return len(self.tok_encode(prompt)), int(answer)

    def _refuse_together(self, problems: Any) -> None:
        """Raise the first problem of any process in all of them."""
        found = next((problem for problem in self.peers.gather(next(iter(problems), None)) if problem), None)
        if found is not None:
            raise EvalError(
                f"{found} is longer than {self.label!r} allows ({self.max_length}, max_position_embeddings); "
                "lm-eval would have cut it silently"
            )

    def _with_bos(self, requests: Sequence[Any]) -> list[Any]:
        """The requests, with the BOS token's text before each prompt that does not begin with it."""
        if not self.bos_text:
            return list(requests)
        changed = []
        for request in requests:
            prompt, *rest = request.args
            if prompt and not prompt.startswith(self.bos_text):
                request = copy.copy(request)
                request.arguments = (self.bos_text + prompt, *rest)
            changed.append(request)
        return changed


class StrictLM(Strict, HFLM):
    """A loaded checkpoint for ``lm_eval.simple_evaluate``.

    Log-likelihood requests are one pass through the model's mask, without a cache; generation requests go
    through ``generate`` and the cache it builds anew for every batch, and obey the checkpoint's
    ``generation_config.json`` where the task is silent, as they do in the stock command. Launched several
    times, each process takes its share of the documents.

    Args:
        loaded: The checkpoint, in memory.
        batch_size: Requests at a time; chosen by the longest of each kind when None.
        bos_first: Put the BOS token before every prompt.
        peers: The processes launched together.
    """

    def __init__(self, loaded: Loaded, batch_size: int | None, bos_first: bool, peers: Peers) -> None:
        super().__init__(
            pretrained=loaded.model,
            tokenizer=loaded.tokenizer,
            batch_size=batch_size or 1,
            max_length=loaded.checkpoint.allowed_length or ENDLESS,
            softmax_dtype="float32",
        )
        if peers.size > 1:
            # lm-eval leaves a model that is already in memory to one process; these are its own attributes.
            self._rank, self._world_size, self.accelerator = peers.rank, peers.size, peers.accelerator
        self.label, self.peers, self.notes = loaded.name, peers, {}
        self.bos_text = loaded.tokenizer.bos_token if bos_first and loaded.bos else ""
        # The last token is scored but never fed.
        self.longest_scored = self.max_length + 1
        self._asked = batch_size
        self._mask, self._vocabulary = mask_text(loaded), loaded.vocabulary

    def _prepare(self, kind: str, longest: int) -> None:
        self.batch_size_per_gpu = rows_at_a_time(longest, self._vocabulary, self._asked)
        way = "generate" if kind == "generate_until" else f"one pass through {self._mask}, no cache"
        self.notes[kind] = {"through": way, "batch_size": self.batch_size_per_gpu}

    def _model_call(self, inps: Tensor, attn_mask: Any = None, labels: Any = None) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.model(input_ids=inps, use_cache=False).logits
        return logits

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Tensor:
        caches: list[Any] = []

        def keep(_module: Any, _args: Any, output: Any) -> None:
            caches[:] = [output.past_key_values]

        hook = self.model.register_forward_hook(keep)
        try:
            ids: Tensor = super()._model_generate(context, max_length, stop, **kwargs)
        finally:
            hook.remove()
        note = self.notes["generate_until"]
        held = held_bytes(caches[0]) // len(context)
        note["cache_bytes"] = max(held, note.get("cache_bytes", 0))
        note["through"] = f"generate and its {type(caches[0]).__name__}, prefill through {self._mask}"
        return ids


def mask_text(loaded: Loaded) -> str:
    """The checkpoint's mask in words, for example ``the window of 32 + 4 sinks in 4 of 4 layers (sdpa)``."""
    config = loaded.checkpoint.record.config
    backend = loaded.model.config._attn_implementation
    if not config["window"]:
        return f"the full causal mask ({backend})"
    sinks = (config["attention_window"] or {}).get("sinks", 0)
    size = f"{config['window']} + {sinks} sinks" if sinks else str(config["window"])
    return f"the window of {size} in {config['windowed_layers']} of {config['layers']} layers ({backend})"
