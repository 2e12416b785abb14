"""Every kind of retrieval as a task of lm-eval."""
