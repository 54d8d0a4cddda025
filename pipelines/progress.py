"""Log lines and progress bars of a stage, all on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bimode.inputs.text import printable

PLAIN_EVERY_S = 5.0
SLOW_S = 1.0
LEAST_S = 0.5  # over which a rate says something


def log_line(text: str) -> None:
    """Print one line for the user on stderr, so that stdout stays free for results."""
    print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def if_slow(text: str, after: float = SLOW_S) -> Iterator[None]:
    """Log `text` if the block takes long: imports and digests take seconds, or nothing."""
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
    """Return e.g. `1 engine`, `2 engines`."""
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
    """Return a counter for `bar` that first counts the units that were there before."""
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
    """Return e.g. ``5.1 rollout/s``, or ``12.5 s/step`` for slow units; "" while too little is
    known.
    """
    if units <= 0 or seconds < LEAST_S:
        return ""
    return (
        f"{units / seconds:.1f} {unit}/s" if units >= seconds else f"{seconds / units:.1f} s/{unit}"
    )


class Bar:
    """The progress of a stage: rich's bar on a terminal, a plain line every few seconds elsewhere.

    Call `advance` once for each unit of work that is done.
    """

    def __init__(
        self, name: str, total: int, unit: str, show: Callable[[int, str, str], None] | None = None
    ) -> None:
        self.name, self.total, self.unit, self._show = name, total, unit, show
        self.done = self.num_kept = 0
        self.note = ""
        self._first: tuple[float, int] | None = None  # time of the first unit, units done by then
        self._shown: tuple[int, str] | None = None
        self._started = self._shown_at = time.monotonic()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` more; `note` replaces the text at the end of the line."""
        self.done += units
        self.note = note or self.note
        new = self.done - self.num_kept
        if units and new and self._first is None:  # before it, models were loaded
            self._first = (time.monotonic(), new)
        if self._show:
            self._show(self.done, self.speed(), note or new_and_kept(new, self.num_kept))
        elif time.monotonic() - self._shown_at >= PLAIN_EVERY_S:
            self._print()

    def kept(self, units: int) -> None:
        """Count `units` of earlier work: part of the total, but not of the rate."""
        self.num_kept += units
        self.advance(units)

    def finish(self) -> None:
        """Print the last line, unless it is there already or nothing was to do."""
        if self.total and not self._show and self._shown != (self.done, self.note):
            self._print()

    def speed(self) -> str:
        """The rate since the first unit."""
        new = self.done - self.num_kept
        now = time.monotonic()
        since, already = self._first or (now, new)
        return rate(new - already, now - since, self.unit)

    def _print(self) -> None:
        self._shown_at, self._shown = time.monotonic(), (self.done, self.note)
        seconds = f"{self._shown_at - self._started:.0f} s"
        kept = new_and_kept(self.done - self.num_kept, self.num_kept)
        parts = [seconds, self.speed(), kept, self.note]
        shown = "  ".join(part for part in parts if part)
        log_line(f"{self.name}: {self.done}/{self.total} {self.unit}  {shown}")


@contextmanager
def track(name: str, total: int, unit: str) -> Iterator[Bar]:
    """Show the progress of `total` units.

    Example:
        with track("bpo", total=40, unit="step") as bar:
            bar.advance(1, "reward 0.71")
    """
    if not sys.stderr.isatty():
        bar = Bar(name, total, unit)
        yield bar
        bar.finish()
        return
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[speed]}"),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total, speed="", note="")

        def show(done: int, speed: str, note: str) -> None:
            progress.update(task, completed=done)
            fields = progress.tasks[0].fields
            fields["speed"] = speed
            if note:
                fields["note"] = printable(note)

        yield Bar(name, total, unit, show)
