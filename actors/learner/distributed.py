"""The learners' process group: joining it, and the few collectives that carry scalars."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

# Of a collective: the others wait while rank 0 writes tens of GB to slow storage.
TIMEOUT = timedelta(hours=1)


def backend() -> str:
    """Return `nccl` if the process sees a GPU, else `gloo`."""
    return "nccl" if torch.cuda.is_available() else "gloo"


def device() -> torch.device:
    """Return the device this rank computes on."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def listen(host: str, world: int) -> dist.TCPStore:
    """Open the store where `world` processes meet, on a port that the system gives.

    The port stays taken from here on. The store asks for no password, and by itself it would
    listen on every address of the machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    port = listener.getsockname()[1]
    return dist.TCPStore(
        host,
        port,
        world,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def connect(address: str, world: int) -> dist.TCPStore:
    """Connect to the store of another process at `address`, ``host:port``."""
    host, port = address.rsplit(":", 1)
    return dist.TCPStore(host, int(port), world, is_master=False)


def join(rank: int, world: int, store: dist.Store) -> None:
    """Join `world` processes that meet in `store`. Blocks until all are there."""
    dist.init_process_group(backend(), store=store, rank=rank, world_size=world, timeout=TIMEOUT)


def ensure_group() -> None:
    """Make a group of one of a process without a group."""
    if not dist.is_initialized():
        dist.init_process_group(backend(), store=dist.HashStore(), rank=0, world_size=1)


def leave() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's rank in the group."""
    return dist.get_rank()


def world() -> int:
    """Return the number of processes in the group."""
    return dist.get_world_size()


def barrier() -> None:
    """Wait for every rank."""
    if world() > 1:
        dist.barrier()


def all_sum(values: Sequence[float]) -> list[float]:
    """Return element-wise sums over the ranks; every rank gives equally many values."""
    return _reduce(values, dist.ReduceOp.SUM)


def all_max(value: int) -> int:
    """Return the largest value of any rank."""
    return int(_reduce([value], dist.ReduceOp.MAX)[0])


def _reduce(values: Sequence[float], op: dist.ReduceOp.RedOpType) -> list[float]:
    if world() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(tensor, op)
    return [float(v) for v in tensor]
