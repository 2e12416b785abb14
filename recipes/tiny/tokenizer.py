"""The tiny checkpoint's tokenizer: byte-level BPE, every digit apart, ``<s>`` before every text."""

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from eval.retrieval.prompts import KEYS, NEEDLE, QUESTION, draw_value
from recipes.tiny.stories import story

SPECIALS = ("<unk>", "<s>", "</s>")
VOCAB_SIZE = 1280


def sample_text(seed: int, stories: int) -> list[str]:
    """Write what the merges are learned from: stories, and for every 50 of them a needle for each key."""
    rng = random.Random(seed)
    texts = [" ".join(story(rng)) for _ in range(stories)]
    for _ in range(max(1, stories // 50)):
        for key in KEYS:
            needle = NEEDLE.format(key=key, value=draw_value(rng, 5))
            texts.append(f"{needle} {QUESTION.format(key=key)}")
    return texts


def train_tokenizer(seed: int, stories: int = 4000, max_length: int = 2048) -> PreTrainedTokenizerFast:
    """Learn the merges.

    Args:
        seed: Seed of the sample text; merges depend on nothing else.
        stories: Stories in the sample.
        max_length: What the tokenizer reports as the model's longest input, in tokens.

    Returns:
        A tokenizer that loads through ``AutoTokenizer``.

    Holds: a digit is one token, text round-trips, ids begin with BOS (tests/recipes/test_tiny_checkpoint.py).
    """
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(sample_text(seed, stories), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
