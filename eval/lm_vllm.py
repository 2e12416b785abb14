"""lm-eval's vLLM model for checkpoints of the native tiers. vLLM is imported here and nowhere else."""

from lm_eval.models.vllm_causallms import VLLM

from eval.checkpoint import Loaded
from eval.lm import Strict
from eval.parallel import Peers


class StrictVLLM(Strict, VLLM):
    """A checkpoint's folder for ``lm_eval.simple_evaluate``, run by vLLM with its own cache and batching.

    Args:
        loaded: The checkpoint; its weights need not be in memory.
        batch_size: Requests at a time; vLLM's own scheduling when None.
        bos_first: Put the BOS token before every prompt.
    """

    def __init__(self, loaded: Loaded, batch_size: int | None, bos_first: bool) -> None:
        super().__init__(
            pretrained=str(loaded.checkpoint.path),
            dtype=str(loaded.dtype).removeprefix("torch."),
            batch_size=batch_size or "auto",
            max_model_len=loaded.checkpoint.allowed_length,
        )
        self.label, self.peers = loaded.name, Peers()
        self.bos_text = loaded.tokenizer.bos_token if bos_first and loaded.bos else ""
        # lm-eval feeds vLLM the last token too, and vLLM must generate one more.
        self.longest_scored = self.max_length - 1
        note = {"through": "vLLM, its own mask and cache", "batch_size": batch_size or "vLLM's own"}
        self.notes = dict.fromkeys(("loglikelihood", "loglikelihood_rolling", "generate_until"), note)
