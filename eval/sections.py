"""What a suite can ask for: one section per measure. Plain records, light to import.

All lengths are in the checkpoint's own tokens.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from eval.errors import unknown_name
from eval.retrieval import KINDS

Depth = Annotated[float, Field(ge=0.0, le=1.0)]
Length = Annotated[int, Field(ge=2)]


class Section(BaseModel):
    """One measure's settings. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PerplexitySection(Section):
    """Perplexity on the text, packed into contexts of one length.

    Attributes:
        length: Tokens of a context, BOS included.
        contexts: At most this many contexts, from the start of the text.
        past: Also report perplexity at positions ``past`` and later; half the length when not given.
        stride: Also evaluate contexts that begin every ``stride`` tokens, of which only the last ``stride``
            tokens count, so that each sees ``length - stride`` tokens or more.
        from_start: One context from the beginning of each document that fills one; documents are not joined.
    """

    length: Annotated[int, Field(ge=4)] = 512
    contexts: Annotated[int, Field(ge=2)] = 32
    past: PositiveInt | None = None
    stride: PositiveInt | None = None
    from_start: bool = False


class AgreementSection(Section):
    """KL divergence from the baseline, top-1 and top-k agreement with it, on packed contexts.

    Attributes:
        length: Tokens of a context, BOS included.
        contexts: At most this many contexts, from the start of the text.
        past: Also report KL at positions ``past`` and later; half the length when not given.
        top_k: Size of the sets of most likely tokens that are compared.
    """

    length: Annotated[int, Field(ge=4)] = 512
    contexts: Annotated[int, Field(ge=2)] = 16
    past: PositiveInt | None = None
    top_k: Annotated[int, Field(ge=2)] = 5


class ReachSection(Section):
    """Which tokens the attention of every layer sees, against what ``config.json`` says.

    Attributes:
        longest: Tokens of the text that is probed at most; layers with a longer window are not probed.
    """

    longest: Annotated[int, Field(ge=16)] = 8192


class ConsistencySection(Section):
    """Greedy generation through the cache, against the model's own pass over the same tokens without one.

    Attributes:
        length: Tokens of a prompt and what is generated after it.
        decode_tokens: Tokens that are generated.
        samples: Prompts, cut from the text.
    """

    length: Length = 512
    decode_tokens: Annotated[int, Field(ge=2)] = 16
    samples: Annotated[int, Field(ge=2)] = 6


class NeedleSection(Section):
    """Retrieval by kind, length and depth, with two controls.

    Attributes:
        kinds: Kinds of retrieval (``eval/retrieval``).
        lengths: Tokens of a document, question and room for the answer included.
        depths: Where the evidence stands in the haystack: 0 is the beginning, 1 is just before the question.
        samples: Documents per kind, length and depth.
        controls: Documents per kind and length for each of the controls ``inside`` and ``removed``.
        digits: Digits of every number to find.
    """

    kinds: Annotated[list[str], Field(min_length=1)] = ["needle"]
    lengths: Annotated[list[Length], Field(min_length=1)] = [256, 512]
    depths: Annotated[list[Depth], Field(min_length=1)] = [0.0, 0.25, 0.5, 0.75, 1.0]
    samples: PositiveInt = 4
    controls: PositiveInt = 8
    digits: Annotated[int, Field(ge=2, le=12)] = 5

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: list[str]) -> list[str]:
        for name in kinds:
            if name not in KINDS:
                raise ValueError(unknown_name("kind", name, KINDS))
        return kinds


class TasksSection(Section):
    """lm-eval tasks or groups, by name: those of the hub, those with local documents, and this project's own
    offline ones (``eval/tasks``).

    Attributes:
        names: Task or group names.
        limit: Documents per task; all of them when not given.
        num_fewshot: Examples in the prompt; the task's own number when not given.
        data_dir: Folder with ``NAME.jsonl`` files, used in place of the hub's data (``eval/tasks/local.py``);
            relative to the suite file.
        chat_template: Put prompts into the tokenizer's chat template.
        bos: ``tokenizer`` leaves it to the tokenizer as lm-eval does (comparable with published numbers);
            ``always`` puts the BOS token first, as in this project's other measures.
        backend: ``hf`` runs the loaded model; ``vllm`` gives native checkpoints to lm-eval's vLLM model.
    """

    names: Annotated[list[str], Field(min_length=1)] = ["headroom_needle", "headroom_ending"]
    limit: PositiveInt | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    data_dir: str | None = None
    chat_template: bool = False
    bos: Literal["tokenizer", "always"] = "tokenizer"
    backend: Literal["hf", "vllm"] = "hf"


class FootprintSection(Section):
    """Bytes of the KV cache for one sequence: predicted, and what the cache really holds.

    Attributes:
        lengths: Tokens at which the cache is filled and measured, the last three one by one.
        predict_to: The longest length of the predicted curve.
    """

    lengths: Annotated[list[Annotated[int, Field(ge=4)]], Field(min_length=1)] = [256, 512]
    predict_to: PositiveInt = 32768


class SpeedSection(Section):
    """Time of ``generate``: prefill and decode, interleaved with the baseline.

    Attributes:
        length: Prompt tokens.
        decode_tokens: Tokens generated after the prompt.
        repeats: Timed runs; the median counts.
        batch: Sequences at a time.
    """

    length: Length = 512
    decode_tokens: Annotated[int, Field(ge=2)] = 24
    repeats: Annotated[int, Field(ge=2)] = 5
    batch: PositiveInt = 1
