"""Work for the child of `bimode.storage.limited`, which imports it by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from bimode.errors import ConfigError, StorageError
from bimode.inputs.pictures import PictureError, open_picture


def count(stop: int) -> Iterator[tuple[int, int]]:
    print("what a library prints is no message")
    for at in range(stop):
        yield at, os.getpid()


def large(sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield bytes(size)


def count_and_die(stop: int, by: signal.Signals) -> Iterator[int]:
    yield from range(stop)
    os.kill(os.getpid(), by)


def die_once(stop: int, note: Path) -> Iterator[int]:
    for at in range(stop):
        if at == stop // 2 and not note.exists():
            note.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        yield at


def count_and_sleep(stop: int) -> Iterator[int]:
    yield from range(stop)
    time.sleep(60)


def count_and_raise(stop: int, name: str) -> Iterator[int]:
    yield from range(stop)
    errors: dict[str, Exception] = {
        "storage": StorageError("s3://b does not answer"),
        "config": ConfigError("data", "x", "is no file"),
        "end": EOFError("too short"),
        "time": TimeoutError("too slow"),
        "pipe": BrokenPipeError("gone"),
        "fault": KeyError("a fault of ours"),
    }
    raise errors[name]


def fill(size: int) -> Iterator[int]:
    yield len(b"x" * size)


def decode(path: Path) -> Iterator[str]:
    """What comes of the picture at `path`."""
    try:
        yield "read" if open_picture(path.read_bytes()).mode == "RGB" else "another mode"
    except PictureError as error:
        yield f"refused {error.reason}"


def endless(name: str) -> Iterator[tuple[str, int]]:
    """Items without an end, one each 10 ms."""
    for at in range(10**9):
        time.sleep(0.01)
        yield name, at
