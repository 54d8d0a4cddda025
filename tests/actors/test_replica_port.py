"""No port of a served model takes pickles: whoever reached the machine ran code as the user who
served.
"""

from __future__ import annotations

import asyncio
import inspect

import psutil

from actors.serving import replica_port


def test_a_replica_opens_no_port() -> None:
    """Serve's own call, in the process of a replica, whose class is of a module that closes it."""
    from ray.serve._private import replica
    from ray.serve._private.grpc_util import gRPCGenericServer

    called = inspect.getsource(replica.Replica._on_initialized)
    assert "add_port_to_grpc_server(self._server" in called, "Serve opens it elsewhere now"

    async def start() -> int:
        server = gRPCGenericServer(lambda **_: None)
        before = len([c for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"])
        assert replica.add_port_to_grpc_server(server, "[::]:0") == replica_port.NO_PORT
        await server.start()
        after = len([c for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"])
        await server.stop(None)
        return after - before

    assert asyncio.run(start()) == 0


def test_the_classes_that_are_served_close_it() -> None:
    """A replica unpickles its class by the name of its module, and so imports what that imports."""
    from pathlib import Path

    for module in ("app", "refusals"):
        code = (Path(replica_port.__file__).parent / f"{module}.py").read_text()
        assert "from actors.serving import replica_port as replica_port" in code
