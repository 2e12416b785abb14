"""Measure a checkpoint beside others: quality, retrieval, memory and speed, and what a change of the cache
cost.

The order inside the room: ``__main__`` -> ``run`` -> ``measures/*`` -> records (``sections``, ``results``,
``stats``, ``text``, ``checkpoint``). Start with ``python -m eval --help``, or from Python with
``from eval.run import evaluate`` and ``from eval.suite import load_suite``.
Never write ``import eval``: it hides Python's builtin of that name.
"""
