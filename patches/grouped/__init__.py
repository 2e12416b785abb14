"""Fewer KV heads for architectures whose attention knows only one KV head per query head."""
