"""Ray Serve's replicas without the port that each opens on every address of its node.

What is sent to it is unpickled, with no token: anyone who reached the machine could run code as its
user. Nothing uses it here, since replicas are called as Ray's actors are. Importing this module
closes it in the process; the classes of our replicas are defined in modules that do.
"""

from __future__ import annotations

from typing import Any

from ray.serve._private import replica

NO_PORT = 0


def open_no_port(server: Any, address: str, *options: Any, **named: Any) -> int:
    """Stand in for Ray Serve's `add_port_to_grpc_server`: open no port. The original listens on all
    interfaces (`[::]:0`) and unpickles what it receives.
    """
    return NO_PORT


replica.add_port_to_grpc_server = open_no_port
