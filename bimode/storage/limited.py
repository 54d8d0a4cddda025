"""Runs a generator on untrusted bytes in a child process with limits.

A file that was made to do damage ends, stops or fills the process that decodes it. Here that is a
child with a bound on its memory: it sends what it yields, and when it dies the caller gets an
error that it can give the file's name to. A child is kept for the next call, since its start takes
half a second.
"""

from __future__ import annotations

import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from bimode.errors import BimodeError

T = TypeVar("T")
Child = tuple[subprocess.Popen[bytes], Connection]

MEMORY = 896 << 20  # bytes that a child may allocate, besides what `allow_for` adds
MAX_PAGE = 1 << 31  # bytes of a page of Parquet
SECONDS = 120.0  # for the next item, or for a child's start
MAX_VALUES = 1 << 18  # of an item; more would take a gigabyte as Python objects
MAX_BYTES = 128 << 20  # of an item's texts and bytes
BATCH_ROWS, BATCH_BYTES = 64, 64 << 20
SENT_ITEMS, SENT_BYTES = 64, 4 << 20  # before a child waits to be asked for more
BEAT_S = 5.0  # between two messages of a child that gets further
MORE, END, SKIPPED, DIED, STUCK = range(5)  # kinds of messages, and what comes in their place
SENT_ERRORS = (
    BimodeError,
    pa.ArrowException,
    OSError,
    ValueError,
    EOFError,
    OverflowError,
    RecursionError,
    MemoryError,
)
KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # by somebody else
IDLE: list[Child] = []


class ChildEndedError(BimodeError, OSError):
    """The child died of what it read."""


class ChildStuckError(ChildEndedError):
    """The child made no progress. Raised for its file, or for the storage that it reads from."""


class ChildKilledError(BimodeError, RuntimeError):
    """The child was killed twice by something else, which says nothing about what it read."""


def stream(work: Callable[..., Iterable[T]], *args: object) -> Iterator[T]:
    """Yield what ``work(*args)`` yields in a child; `work` is a function of a module.

    Raises the errors in SENT_ERRORS of `work`, ChildEndedError, and ChildKilledError. A child that
    dies is replaced once, and the second continues behind the items that have been yielded.
    """
    done = 0
    for most in (SENT_ITEMS, 1):  # one by one: whatever comes before the end is seen
        process, pipe = child = _idle_child()
        is_waiting = False  # for an order, and not in the middle of one
        order: object = (work, args, done, most)
        kind = MORE
        try:
            while kind == MORE:
                is_waiting = False
                _send(pipe, order)
                kind, items, error = _answer(child)
                is_waiting = kind in (MORE, END)
                done += len(items)
                yield from items
                order = None  # the next, please
        finally:
            if is_waiting:
                IDLE.append(child)
            else:
                process.kill()
                process.wait()
        if error is not None:
            raise error
        if kind == END:
            return
    if process.returncode >= 0:  # a fault of ours, whose traceback the child has printed
        raise RuntimeError(f"a reader ended with status {process.returncode}")
    if process.returncode in KILLED:
        raise ChildKilledError("a reader was killed twice: is the memory used up?")
    raise ChildEndedError(f"its reader ended by {signal.Signals(-process.returncode).name}")


def allow_for(size: int) -> None:
    """Set, in a child, the memory for a file of `size` bytes whose writer made one page of all
    rows.
    """
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY + 4 * min(size, MAX_PAGE), most))


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
    """Return what an item has too much of, e.g. ``"more than 262144 values"``; "" for a sound one.
    ``"more than 262144 values"``; "" for one that is fine.

    A few bytes of a file can stand for millions of values, and each would be sent.
    """
    values, size, rest = 1, 0, [item]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            value = (
                [*value.keys(), *value.values()]
                if len(value) <= MAX_VALUES
                else [None] * len(value)
            )
        if isinstance(value, str | bytes):
            size += len(value)
        elif isinstance(value, list | tuple):
            values += len(value)
            if values > MAX_VALUES:
                return f"more than {MAX_VALUES} values"
            rest += value
    return f"more than {MAX_BYTES >> 20} MB" if size > MAX_BYTES else ""


def _idle_child() -> Child:
    with suppress(IndexError):  # of an empty list
        while (child := IDLE.pop())[0].poll() is not None:
            pass
        return child
    ours, child_end = socketpair()
    with child_end:
        process = subprocess.Popen(
            [sys.executable, "-m", "bimode.storage.limited", str(child_end.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[child_end.fileno()],
            cwd=Path(__file__).resolve().parents[2],
        )
    return process, Connection(ours.detach())


def _send(pipe: Connection, order: object) -> None:
    with suppress(BrokenPipeError):  # the next read says that the child has died
        pipe.send(order)


def _answer(child: Child) -> tuple[int, list[Any], Exception | None]:
    """Return the kind of the next message, its items, and the error that they ended in."""
    process, pipe = child
    try:
        while pipe.poll(SECONDS):
            kind, messages, error = pipe.recv()
            if kind != SKIPPED:
                return kind, [pickle.loads(message) for message in messages], error
    except (EOFError, ConnectionResetError):
        process.wait()
        return DIED, [], None
    return STUCK, [], ChildStuckError(f"its reader got no further in {SECONDS:.0f} s")


def _serve(pipe: Connection) -> None:
    """Run the child: one piece of work after another, until its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        order = pipe.recv()
        while True:
            allow_for(0)
            order = _obey(pipe, *order)


def _obey(
    pipe: Connection, work: Callable[..., Any], args: tuple[Any, ...], skip: int, most: int
) -> Any:
    """Send what `work` yields behind `skip` items; return the order that comes next.

    After `most` items, SENT_BYTES or BEAT_S it waits for the parent, who may have another order.
    """
    error, size, messages = None, 0, list[bytes]()
    beat = time.monotonic()
    try:
        for at, item in enumerate(work(*args)):
            is_late = time.monotonic() - beat > BEAT_S
            if at < skip:
                if is_late:
                    pipe.send((SKIPPED, [], None))
                    beat = time.monotonic()
                continue
            messages.append(pickle.dumps(item))
            size += len(messages[-1])
            if len(messages) >= most or size >= SENT_BYTES or is_late:
                pipe.send((MORE, messages, None))
                order = pipe.recv()
                if order is not None:
                    return order
                size, messages = 0, []
                beat = time.monotonic()
    except SENT_ERRORS as raised:
        error = raised
    pipe.send((END, messages, error))
    return pipe.recv()


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
