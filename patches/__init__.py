"""How a loaded model attends and what it remembers.

Importing this package makes ``AutoConfig``, ``AutoModel`` and ``AutoModelForCausalLM`` load windowed
checkpoints.
"""

from patches.cache.windowed import WindowedCache
from patches.grouped.cache import GroupedCache
from patches.loading import load, register
from patches.policy import PolicyError, WindowPolicy
from patches.stock.bases import fit_bases
from patches.stock.cache import make_cache

register()

__all__ = ["GroupedCache", "PolicyError", "WindowPolicy", "WindowedCache", "fit_bases", "load", "make_cache"]
