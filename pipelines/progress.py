"""What a stage tells the person watching: a bar with a rate on a terminal, a plain line every few
seconds elsewhere.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from bimode.inputs.control_characters import printable

PLAIN_EVERY_S = 5.0
SLOW_S = 1.0
LEAST_S = 0.5  # over which a rate says something


def log_line(text: str) -> None:
    """One line for the user, on stderr, so that stdout stays free for results."""
    print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def if_slow(text: str, after: float = SLOW_S) -> Iterator[None]:
    """Says `text` if the block takes long: imports and digests are seconds, or nothing."""
    timer = threading.Timer(after, log_line, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def timed() -> Iterator[None]:
    """Log the seconds of the block: stages do not count imports, nor the start and end of Ray."""
    started = time.monotonic()
    yield
    log_line(f"bimode: {time.monotonic() - started:.0f} s in all, with start-up")


def counted(n: int, unit: str) -> str:
    """E.g. `1 engine`, `2 engines`."""
    return f"{n} {unit}" if n == 1 else f"{n} {unit}s"


def until_loaded(bar: Bar, total: int, text: str) -> Callable[[int], None]:
    """Advances `bar` for what counts kept units first: says `text` if some of `total` are missing,
    since a model loads now.
    """
    advance, calls = kept_first(bar), 0

    def counting(units: int) -> None:
        nonlocal calls
        if not calls and units < total:
            log_line(text)
        calls += 1
        advance(units)

    return counting


def kept_first(bar: Bar) -> Callable[[int], None]:
    """Advances `bar` for what counts first the units that were there before it began."""
    calls = 0

    def counting(units: int) -> None:
        nonlocal calls
        calls += 1
        (bar.kept if calls == 1 else bar.advance)(units)

    return counting


def new_and_kept(new: int, kept: int) -> str:
    """E.g. ``80 new, 3,392 kept from before``; "" where all are new, which goes without saying."""
    return f"{new:,} new, {kept:,} kept from before" if kept else ""


def rate(units: float, seconds: float, unit: str) -> str:
    """E.g. ``5.1 rollout/s``, or ``12.5 s/step`` of what takes longer than a second; "" while too
    little is known.
    """
    if units <= 0 or seconds < LEAST_S:
        return ""
    return (
        f"{units / seconds:.1f} {unit}/s" if units >= seconds else f"{seconds / units:.1f} s/{unit}"
    )


class Bar(Protocol):
    """What `track` gives: call `advance` once for each unit of work that is done."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Counts `units` more; `note` replaces the text at the end of the line."""

    def kept(self, units: int) -> None:
        """Counts `units` that were there before: part of the total, but not of the rate."""


@contextmanager
def track(name: str, total: int, unit: str) -> Iterator[Bar]:
    """Shows the progress of `total` units.

    Example:
        with track("bpo", total=40, unit="step") as bar:
            bar.advance(1, "reward 0.71")
    """
    if sys.stderr.isatty():
        with _rich_bar(name, total, unit) as bar:
            yield bar
    else:
        plain = PlainBar(name, total, unit)
        yield plain
        plain.finish()


class PlainBar:
    """A line every `PLAIN_EVERY_S` seconds and one at the end: for logs and jobs."""

    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.were_there, self.note = 0, 0, ""
        self.first: tuple[float, int] | None = (
            None  # when the first unit was there, for which models were loaded; how many then
        )
        self.said: tuple[int, str] | None = None
        self.started = self.shown = time.monotonic()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Counts, and prints if the last line is old."""
        self.done, self.note = self.done + units, note or self.note
        if units and self.first is None and self.done > self.were_there:
            self.first = (time.monotonic(), self.done - self.were_there)
        if time.monotonic() - self.shown >= PLAIN_EVERY_S:
            self._show()

    def kept(self, units: int) -> None:
        """Counts what was there before."""
        self.were_there += units
        self.advance(units)

    def finish(self) -> None:
        """The last line, with the rate since the first unit; none where it is there already, or
        where there was nothing to do.
        """
        if self.total and self.said != (self.done, self.note):
            self._show()

    def _show(self) -> None:
        self.shown, self.said = time.monotonic(), (self.done, self.note)
        new = self.done - self.were_there
        since, already = self.first or (self.shown, new)
        speed = rate(new - already, self.shown - since, self.unit)
        notes = "".join(
            f"  {note}" for note in (speed, new_and_kept(new, self.were_there), self.note) if note
        )
        log_line(
            f"{self.name}: {self.done}/{self.total} {self.unit}  {self.shown - self.started:.0f}"
            f" s{notes}"
        )


@contextmanager
def _rich_bar(name: str, total: int, unit: str) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(TextColumn):
        """Units a second, smoothed by rich."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else rate(speed, 1.0, unit))

    class RichBar:
        done = were_there = 0

        def advance(self, units: int = 1, note: str = "") -> None:
            self.done += units
            if told := note or new_and_kept(self.done - self.were_there, self.were_there):
                progress.update(task, note=printable(told))
            progress.advance(task, units)

        def kept(self, units: int) -> None:
            self.were_there += units
            self.advance(units)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(""),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total, note="")
        yield RichBar()
