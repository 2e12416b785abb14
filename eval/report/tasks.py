"""How the lm-eval tasks ran, in words: prompts, documents, and what the requests went through."""

from typing import Any

from eval.report.wording import bytes_text
from eval.results import Results


def task_lines(results: Results) -> list[str]:
    """One sentence per task and checkpoint; none where no task was run."""
    return [
        f"{task} on {name}: {_sentence(how)}"
        for name, detail in results.details.get("tasks", {}).items()
        for task, how in detail.get("tasks", {}).items()
    ]


def _sentence(how: dict[str, Any]) -> str:
    prompts = f"{how['num_fewshot']}-shot"
    prompts += ", chat template" if how["chat_template"] else ""
    prompts += ", BOS first" if how["bos"] == "always" else ""
    parts = [how["output_type"].replace("_", " "), prompts, how["data"], how["through"]]
    if "cache_bytes" in how:
        parts[-1] += f", at most {bytes_text(how['cache_bytes'])} a sequence"
    return "; ".join([*parts, f"batch size {how['batch_size']}"])
