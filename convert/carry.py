"""Which files beside the weights go along: tokenizer, generation config, chat templates, licences."""

from pathlib import Path

SUFFIXES = (".json", ".txt", ".jinja", ".model", ".tiktoken")
PREFIXES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
TEMPLATES = "additional_chat_templates"
MAX_BYTES = 1 << 28


def list_carried(folder: Path) -> tuple[Path, ...]:
    """List the files of a checkpoint that are copied as they are.

    Weights, pickles, Python sources, the config and the model card are not among them: weights are converted,
    pickles and sources never trusted, config and card written anew.

    Args:
        folder: The source checkpoint.

    Returns:
        Paths relative to ``folder``, sorted.
    """
    paths = [path for path in folder.iterdir() if path.is_file() and _is_carried(path)]
    templates = folder / TEMPLATES
    if templates.is_dir():
        paths += [path for path in templates.iterdir() if path.is_file() and path.suffix == ".jinja"]
    return tuple(sorted(path.relative_to(folder) for path in paths))


def _is_carried(path: Path) -> bool:
    name = path.name
    if name == "config.json" or name.endswith(".index.json") or name.startswith("."):
        return False
    known = path.suffix in SUFFIXES or (name.upper().startswith(PREFIXES) and path.suffix in ("", ".md"))
    return known and path.stat().st_size <= MAX_BYTES
