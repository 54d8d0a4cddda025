"""Runs a generator on foreign bytes in a child process that may be stopped.

A file that was made to do damage ends, stops or fills the process that decodes it. Here that is a
child with a bound on its memory: it sends what it yields, and when it dies the caller gets an
error that it can give the file's name to. A child is kept for the next call, since its start takes
half a second.
"""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from bimode.errors import BimodeError

T = TypeVar("T")

MEMORY = 896 << 20  # bytes that a child may allocate, besides what `allow` adds
SECONDS = 60.0  # for the next item, or for a child's start
MAX_PAGE = 1 << 31  # bytes of a page of Parquet
BATCH_ROWS, BATCH_BYTES = 64, 64 << 20
MAX_VALUES = 1 << 18  # of an item; more would take a gigabyte as Python objects
MAX_BYTES = 128 << 20  # of an item's texts and bytes
SENT_BYTES, SENT_ITEMS = 4 << 20, 64  # before a child waits to be asked for more
ITEM, PAUSE, END = range(3)  # kinds of messages
LENGTH = struct.Struct("<Q")
KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # by somebody else
SENT_ERRORS = (
    BimodeError, pa.ArrowException, OSError, ValueError, EOFError, OverflowError, RecursionError,
    MemoryError,
)  # fmt: skip
IDLE: list[subprocess.Popen[bytes]] = []


class ChildEndedError(BimodeError, OSError):
    """A child that died of what it read, or got no further."""


class ChildKilledError(BimodeError, RuntimeError):
    """A child that was killed twice by something else, which says nothing about what it read."""


class _ChildDiedError(Exception):
    pass


class _ChildStuckError(Exception):
    pass


def stream(work: Callable[..., Iterable[T]], *args: object) -> Iterator[T]:
    """Yield what ``work(*args)`` yields in a child; `work` is a function of a module.

    Raises the errors in SENT_ERRORS of `work`, ChildEndedError, and ChildKilledError. A child that dies
    is replaced once, and the second continues behind the items that have been yielded.
    """
    done = 0
    status = 0
    for _ in range(2):
        child = _idle_child()
        try:
            for item in _items(child, work, args, done):
                done += 1
                yield item
            return
        except _ChildDiedError:
            status = child.wait()
        except _ChildStuckError:
            raise ChildEndedError(f"its reader got no further in {SECONDS:.0f} s") from None
        finally:
            if child.poll() is None:
                IDLE.append(child)
    if status >= 0:  # a fault of ours, whose traceback the child has printed
        raise RuntimeError(f"a reader ended with status {status}")
    if status in KILLED:
        raise ChildKilledError("a reader was killed twice: is the memory used up?")
    raise ChildEndedError(f"its reader ended by {signal.Signals(-status).name}")


def allow(extra: int) -> None:
    """In a child: `extra` more bytes of memory than MEMORY, e.g. for a file that is as large."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY + extra, hard))


def allow_for(size: int) -> None:
    """In a child: the memory for a file of `size` bytes whose writer made one page of all rows."""
    allow(4 * min(size, MAX_PAGE))


def parquet_batches(
    table: pq.ParquetFile, group: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a row group, so few at a time that they fit in memory.

    Each may hold the largest value of the dictionary that a few bytes of it refer to.
    """
    about = table.metadata.row_group(group)
    size = sum(about.column(at).total_uncompressed_size for at in range(about.num_columns))
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, size)))
    yield from table.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)


def excess(item: object) -> str:
    """What an item has too much of, e.g. ``"more than 262144 values"``; "" for one that is fine.

    A few bytes of a file can stand for millions of values, and each would be sent.
    """
    values, size, rest = 1, 0, [item]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            value = [*value.keys(), *value.values()] if len(value) <= MAX_VALUES else [None] * len(value)
        if isinstance(value, str | bytes):
            size += len(value)
        elif isinstance(value, list | tuple):
            values += len(value)
            if values > MAX_VALUES:
                return f"more than {MAX_VALUES} values"
            rest += value
    return f"more than {MAX_BYTES >> 20} MB" if size > MAX_BYTES else ""


def _items(
    child: subprocess.Popen[bytes], work: Callable[..., Any], args: tuple[object, ...], skip: int
) -> Iterator[Any]:
    _send(child, pickle.dumps((work, args, skip)))
    while True:
        batch = []  # taken whole, so that a caller who wants no more leaves nothing in the pipe
        try:
            kind, content = pickle.loads(_receive(child))
            while kind == ITEM:
                batch.append(content)
                kind, content = pickle.loads(_receive(child))
        except (_ChildDiedError, _ChildStuckError):
            yield from batch
            raise
        yield from batch
        if kind == END:
            break
        _send(child, b"")  # the next, please
    if content is not None:
        raise content


def _idle_child() -> subprocess.Popen[bytes]:
    with suppress(IndexError):  # of an empty list
        while (child := IDLE.pop()).poll() is not None:
            pass
        return child
    return subprocess.Popen(
        [sys.executable, "-m", "bimode.limited"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, pipesize=1 << 20,
        cwd=Path(__file__).resolve().parent.parent,
    )  # fmt: skip


def _send(child: subprocess.Popen[bytes], content: bytes) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(LENGTH.pack(len(content)) + content)
    except BrokenPipeError:
        raise _ChildDiedError from None


def _receive(child: subprocess.Popen[bytes]) -> bytearray:
    """Return one message. Raises _ChildDiedError, and _ChildStuckError after SECONDS without it."""
    assert child.stdout is not None
    until = time.monotonic() + SECONDS
    try:
        (length,) = LENGTH.unpack(_take(child.stdout, LENGTH.size, until))
        return _take(child.stdout, length, until)
    except _ChildStuckError:
        child.kill()
        child.wait()
        raise


def _take(pipe: IO[bytes], length: int, until: float) -> bytearray:
    content = bytearray(length)
    rest = memoryview(content)
    while rest:
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise _ChildStuckError
        count = pipe.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise _ChildDiedError
        rest = rest[count:]
    return content


def _serve() -> None:
    """The child: one piece of work after another, until its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    to_parent = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no message
    with open(to_parent, "wb") as sink:
        order = _read(sys.stdin.buffer)
        while order is not None:
            allow(0)
            order = _obey(order, sink)


def _obey(order: bytes, sink: BinaryIO) -> bytes | None:
    """Send what an order yields; return the order that comes behind it.

    After SENT_ITEMS or SENT_BYTES it waits for the parent, who may have another order by then.
    """
    work, args, skip = pickle.loads(order)
    error, items, size = None, 0, 0
    try:
        for item in islice(work(*args), skip, None):
            items, size = items + 1, size + _write(sink, ITEM, item)
            if items >= SENT_ITEMS or size >= SENT_BYTES:
                _write(sink, PAUSE)
                next_order = _read(sys.stdin.buffer)
                if next_order != b"":
                    return next_order
                items, size = 0, 0
    except SENT_ERRORS as raised:
        error = raised
    _write(sink, END, error)
    return _read(sys.stdin.buffer)


def _read(source: BinaryIO) -> bytes | None:
    length = source.read(LENGTH.size)
    return source.read(LENGTH.unpack(length)[0]) if length else None


def _write(sink: BinaryIO, kind: int, content: object = None) -> int:
    """Send a message; return its size in bytes."""
    message = pickle.dumps((kind, content), protocol=pickle.HIGHEST_PROTOCOL)
    sink.write(LENGTH.pack(len(message)))
    sink.write(message)
    if kind != ITEM:
        sink.flush()
    return len(message)


if __name__ == "__main__":
    _serve()
