"""What lm-eval's vLLM model touches of vLLM, computed by transformers; copied to a package named vllm."""

from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MADE: list[dict[str, Any]] = []
"""The arguments of every engine that was made."""


class SamplingParams:
    """Settings by name; those not given are None."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def __getattr__(self, name: str) -> Any:
        return self.settings.get(name)


class TokensPrompt(dict[str, Any]):
    """A prompt as token ids."""


class LLM:
    """The checkpoint in float32, one request at a time; the limits of vLLM's own engine."""

    def __init__(self, model: str, max_model_len: int, **rest: Any) -> None:
        MADE.append({"model": model, "max_model_len": max_model_len, **rest})
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.limit = max_model_len
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=max_model_len))

    @torch.inference_mode()
    def generate(self, prompts: list[Any], sampling_params: list[SamplingParams], **_: Any) -> list[Any]:
        return [self._answer(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _answer(self, prompt: list[int], params: SamplingParams) -> Any:
        if len(prompt) + params.max_tokens > self.limit:
            raise ValueError("longer than max_model_len")
        ids = torch.tensor([prompt])
        if params.prompt_logprobs:
            scores = self.model(ids, use_cache=False).logits[0].log_softmax(-1)
            given = [{}] * (len(prompt) - 1)
            for place, token in enumerate(prompt[1:]):
                best = int(scores[place].argmax())
                given[place] = {best: float(scores[place, best]), token: float(scores[place, token])}
            return SimpleNamespace(prompt_logprobs=[None, *given], outputs=[SimpleNamespace(text="")])
        output = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=params.max_tokens, do_sample=False
        )
        text = self.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
        for stop in params.stop:
            text = text.split(stop)[0]
        return SimpleNamespace(prompt_logprobs=None, outputs=[SimpleNamespace(text=text)])
