"""lm-eval's Hugging Face model, except that it refuses what it would have truncated."""

import copy
from collections.abc import Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from eval.checkpoint import Loaded
from eval.errors import EvalError

ENDLESS = 1 << 24
"""Length limit given to lm-eval for checkpoints whose positions live in the cache."""


class StrictLM(HFLM):
    """A loaded checkpoint for ``lm_eval.simple_evaluate``.

    Log-likelihood requests are one pass through the model's mask; generation requests go through
    ``generate`` and
    the cache it builds anew for every batch. A request longer than the model's positions raises instead of
    being cut from the left.

    Args:
        loaded: The checkpoint, in memory.
        batch_size: Requests at a time.
        bos_first: Put the BOS token before every prompt.

    Holds: an overlong request raises and names its task (tests/eval/test_tasks.py).
    """

    def __init__(self, loaded: Loaded, batch_size: int, bos_first: bool) -> None:
        allowed = loaded.checkpoint.allowed_length or ENDLESS
        super().__init__(
            pretrained=loaded.model,
            tokenizer=loaded.tokenizer,
            batch_size=batch_size,
            max_length=allowed,
            softmax_dtype="float32",
        )
        self._label = loaded.name
        self._bos_text = loaded.tokenizer.bos_token if bos_first and loaded.bos else ""
        self._tasks: list[str] = []

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        self._tasks = [str(request.task_name) for request in requests]
        return super().loglikelihood(self._with_bos(requests), disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        self._tasks = []
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, **kwargs: Any) -> Any:
        for index, (_, context, continuation) in enumerate(requests):
            # The last token is scored but never fed, so a request may be one token longer than the positions.
            if len(context) + len(continuation) > self.max_length + 1:
                task = self._tasks[index] if index < len(self._tasks) else "a log-likelihood task"
                self._refuse(task, f"{len(context)} prompt + {len(continuation)} continuation tokens")
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, **kwargs)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        requests = self._with_bos(requests)
        for request in requests:
            prompt = len(self.tok_encode(request.args[0]))
            answer = normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"]
            if prompt + answer > self.max_length:
                self._refuse(str(request.task_name), f"{prompt} prompt + {answer} generated tokens")
        return super().generate_until(requests, disable_tqdm=True)

    def _refuse(self, task: str, lengths: str) -> None:
        raise EvalError(
            f"task {task!r}: a request of {lengths} is longer than {self._label!r} allows "
            f"({self.max_length}, max_position_embeddings); lm-eval would have cut it silently"
        )

    def _with_bos(self, requests: Sequence[Any]) -> list[Any]:
        """The requests, with the BOS token's text before each prompt that does not begin with it."""
        if not self._bos_text:
            return list(requests)
        changed = []
        for request in requests:
            prompt, *rest = request.args
            if prompt and not prompt.startswith(self._bos_text):
                request = copy.copy(request)
                request.arguments = (self._bos_text + prompt, *rest)
            changed.append(request)
        return changed
