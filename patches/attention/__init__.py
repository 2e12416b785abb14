"""Window + sink attention: one rule (``mask``), and a backend per way to compute it."""
