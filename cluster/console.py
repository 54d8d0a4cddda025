"""The terminal belongs to the lines of a run: what Ray's C++ writes there stands in its logs
too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG = "native-stderr.log"
STDERR = 2


@contextmanager
def native_stderr_in(folder: Path) -> Iterator[None]:
    """What is written to stderr past Python's `sys.stderr` goes to a file in `folder`.

    Ray warns there of every pool of actors that restart, as those of a curation are, and nobody can
    turn it off alone.
    """
    own = sys.stderr
    own.flush()
    terminal = os.dup(STDERR)
    with (folder / LOG).open("ab") as log:
        os.dup2(log.fileno(), STDERR)
    sys.stderr = os.fdopen(os.dup(terminal), "w", 1, own.encoding, own.errors)
    try:
        yield
    finally:
        sys.stderr = own  # the other stays open: loggers that were made meanwhile write to it
        os.dup2(terminal, STDERR)
        os.close(terminal)
