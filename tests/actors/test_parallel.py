"""Where the learners of a group meet: on the address that they were told, and on no other of the
machine.
"""

from __future__ import annotations

import psutil
import pytest

from actors.learner import distributed


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_the_store_of_a_group_listens_on_its_own_address_alone(host: str) -> None:
    """It asks for no password, and listened on all: another machine could write into it."""
    before = {
        (c.laddr.ip, c.laddr.port)
        for c in psutil.Process().net_connections("tcp")
        if c.status == "LISTEN"
    }
    store = distributed.listen(host, 2)
    now = {
        (c.laddr.ip, c.laddr.port)
        for c in psutil.Process().net_connections("tcp")
        if c.status == "LISTEN"
    }
    assert now - before == {(host, store.port)}
    peer = distributed.connect(f"{host}:{store.port}", 2)
    peer.set("key", "value")
    assert store.get("key") == b"value"
