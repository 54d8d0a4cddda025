"""Tensors that other processes of a machine read where they lie, without a copy.

A learner on a CPU lends its weights like this to the rollout workers beside it (`actors.weight_sync`).
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

SHM = Path("/dev/shm")  # where torch puts what is shared
KEPT_FREE = 0.65  # of it, for Ray: its object store takes 30 % of the machine's memory, of which this is half
ITEM = 4  # bytes of a float32
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine() -> str:
    """Equal for two processes that see, and may open, each other's files under ``/proc``; empty where there is no such thing."""
    try:
        return f"{BOOT_ID.read_text().strip()}/{os.stat('/proc/self/ns/pid').st_ino}/{os.getuid()}"
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class SharedArray:
    """Where an array of float32 lies: in an open file of a living process. `size` is the file's, in bytes; `offset` and `strides`
    count elements."""

    path: str
    size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @staticmethod
    def of(tensor: Tensor) -> SharedArray | None:
        """None for a tensor that `share` has not moved."""
        storage = tensor.untyped_storage()
        if tensor.device.type != "cpu" or not storage.is_shared():
            return None
        descriptor, size = storage._share_fd_cpu_()
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        return SharedArray(path, size, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())


def mapped(places: Sequence[SharedArray]) -> tuple[NDArray[np.float32], ...]:
    """The arrays as they are now, and as they will be: nothing is copied. Raises OSError if their process is gone."""
    files: dict[str, mmap.mmap] = {}
    for place in places:
        if place.path not in files:
            with open(place.path, "rb") as file:
                files[place.path] = mmap.mmap(file.fileno(), place.size, prot=mmap.PROT_READ)
    return tuple(
        np.ndarray(p.shape, np.float32, files[p.path], ITEM * p.offset, [ITEM * step for step in p.strides]) for p in places
    )


def share(tensors: Iterable[Tensor]) -> bool:
    """Moves `tensors` to where `SharedArray` finds them; they stay the same objects, as does what shares their memory.

    False, and nothing is moved, unless all are whole, float32 and on a CPU, and there is room for them beside Ray's objects.
    """
    import torch

    by_storage: dict[int, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.dtype is not torch.float32 or hasattr(tensor, "ds_id"):
            return False
        if not tensor.untyped_storage().is_shared():
            by_storage[tensor.untyped_storage()._cdata].append(tensor)
    if not machine() or not _is_room(sum(held[0].untyped_storage().nbytes() for held in by_storage.values())):
        return False
    for held in by_storage.values():
        if len(held) > 1:  # ZeRO's, whose own tensors lie there too
            held[0].untyped_storage().share_memory_()
    alone = [held[0] for held in by_storage.values() if len(held) == 1]
    whole = torch.empty(sum(tensor.numel() for tensor in alone)).share_memory_()  # one open file, not one each
    for tensor, part in zip(alone, whole.split([tensor.numel() for tensor in alone]), strict=True):
        tensor.data = part.copy_(tensor.detach().reshape(-1)).view(tensor.shape)
    return True


def _is_room(size: int) -> bool:
    try:
        usage = shutil.disk_usage(SHM)
    except OSError:
        return False
    return usage.free - size >= KEPT_FREE * usage.total
