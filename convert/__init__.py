"""Checkpoint in, checkpoint out: fewer KV heads and windowed attention, streamed without building a model."""

from convert.errors import ConvertError
from convert.pipeline import convert
from convert.request import Request, Result, Row

__all__ = ["ConvertError", "Request", "Result", "Row", "convert"]
