"""Ranks of a learner group whose end can be chosen. Actors import this file, so nothing heavy
stands at its top.
"""

from __future__ import annotations

import os
import time
from typing import Any

from ray.exceptions import OutOfMemoryError

from bimode.errors import DivergedError


class Rank:
    """A rank whose end can be chosen."""

    def fine(self) -> int:
        return 7

    def die(self) -> None:
        time.sleep(0.5)
        os._exit(1)

    def lose_the_others(self) -> None:
        """As a collective ends whose other side is gone."""
        raise RuntimeError("Connection closed by peer")

    def diverge(self) -> None:
        raise DivergedError("loss is nan")

    def send(self) -> None:
        """As a collective waits whose other side says nothing."""
        time.sleep(600)

    def ask(self, worker: Any) -> int:
        """As a rank that sends weights asks a rollout worker for its part."""
        import ray

        return int(ray.get(worker.fine.remote()))

    def run_out_of_memory(self) -> None:
        """As Ray says it of a process that its memory monitor has ended."""
        raise OutOfMemoryError("killed due to memory pressure")


class Broken:
    def __init__(self) -> None:
        raise ValueError("no such model")

    def fine(self) -> None:
        pass


class Sender(Rank):
    """A rank of a learner group that has loaded; no rollout worker comes to its rendezvous."""

    def free_address(self) -> str:
        return "127.0.0.1:1"

    def open_sender(self, workers: Any, sync: str, address: str) -> None:
        time.sleep(600)


class Engine:
    """A rollout worker that has loaded. `model_dir` says how else it may start."""

    def __init__(self, name: str, model_dir: Any, **_: Any) -> None:
        if model_dir == "too large":
            raise ValueError("no room for the cache on the GPU")
        if model_dir == "slow":
            time.sleep(600)

    def machine(self) -> str:
        return ""
