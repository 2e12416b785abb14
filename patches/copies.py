"""The copies of this code in one process: the installed one, and one for each checkpoint that brings its own.

What is registered with torch or transformers by name has another name in every copy, so that checkpoints
of different versions do not run each other's code.
"""

from zlib import crc32

from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME


def remote(module: str) -> bool:
    """Whether the module of this name came with a checkpoint."""
    return module.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME)


TAG = f"copy_{crc32(__name__.encode()):08x}_" if remote(__name__) else ""
"""Part of this copy's names."""
