"""Conversions in processes of their own that take long enough to be killed in their midst."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# A server that has everything imported already and no threads: a process costs milliseconds, not seconds.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch", "convert.__main__", "convert.weights.arrays", "convert.merging.mean", __name__]
)
CALLS = ("pwrite", "copy_file_range", "fsync", "rename", "mkdir", "unlink", "rmdir")
PAUSE_S = 0.003


def start(errors: Path, *words: object, user: int | None = None) -> BaseProcess:
    """Start ``python -m convert`` slowed down, as another user if one is given; its output goes to a file."""
    child = SERVER.Process(target=run, args=(str(errors), [str(word) for word in words], user))
    child.start()
    return child


def run(errors: str, words: list[str], user: int | None) -> None:
    """Run the command line with every system call that leaves a trace on disk taking a while."""
    from convert.__main__ import main

    descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    os.dup2(descriptor, 1)
    for name in CALLS:
        setattr(os, name, slowed(getattr(os, name)))
    if user is not None:
        # What is imported late must be imported now: the interpreter's own files may be closed to that user.
        sys.argv = ["convert", "nothing", "nowhere"]
        main()
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.setuid(user)
    sys.argv = ["convert", *words]
    sys.exit(main())


def slowed(call: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function that waits before it acts."""

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(PAUSE_S)
        return call(*args, **options)

    return slow
