"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

BELOW_EPHEMERAL = range(
    20_000, 32_000
)  # above Ray's ports of workers, below those that connections get of themselves


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, and that no connection will be given before the server
    binds them.
    """
    found: list[int] = []
    with ExitStack() as open_until_all_are_found:
        for port in random.SystemRandom().sample(BELOW_EPHEMERAL, len(BELOW_EPHEMERAL)):
            probe = open_until_all_are_found.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"no {count} free ports in {BELOW_EPHEMERAL}")
