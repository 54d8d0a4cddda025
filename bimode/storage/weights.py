"""Weights between learner and rollout workers: buckets of named tensors, each small beside the
model, each with its checksum. Where learner and workers share a machine's memory, the workers read
the tensors in place, without a copy (`actors.weights.shared_memory`).
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
import xxhash
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

SHM = Path("/dev/shm")  # where torch puts what is shared
# of it, for Ray: its object store takes 30 % of the machine's memory, of which this is half
KEPT_FREE = 0.65
ALIGNMENT = 64  # bytes, as torch gives
ALONE = 2  # holders of a storage that is one tensor's: the tensor, and who counts them
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine() -> str:
    """Return a name that is equal for two processes that can open each other's files under
    ``/proc``; empty where that is not possible, as in some sandboxes.
    """
    try:
        os.listdir(f"/proc/{os.getppid()}/fd")
        return f"{BOOT_ID.read_text().strip()}/{os.stat('/proc/self/ns/pid').st_ino}/{os.getuid()}"
    except OSError:
        return ""


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a host tensor as numpy sees it, without a copy: float32 unchanged, bfloat16, which
    numpy lacks, as uint16; others in float32.
    """
    import torch

    tensor = tensor.detach()
    return (
        tensor.view(torch.uint16).numpy()
        if tensor.dtype is torch.bfloat16
        else tensor.float().numpy()
    )


@dataclass(frozen=True, slots=True)
class SharedArray:
    """Where an array lies: in an open file of a living process. `size` is the file's, in bytes;
    `offset` and `strides` count elements; `dtype` is numpy's (`as_array`).
    """

    path: str
    size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @staticmethod
    def of(tensor: Tensor) -> SharedArray | None:
        """Describe a tensor; None for one that `share` has not moved."""
        storage = tensor.untyped_storage()
        if tensor.device.type != "cpu" or not storage.is_shared():
            return None
        descriptor, size = storage._share_fd_cpu_()
        path, dtype = f"/proc/{os.getpid()}/fd/{descriptor}", as_array(tensor).dtype.str
        return SharedArray(
            path, size, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), dtype
        )


def mapped(places: Sequence[SharedArray]) -> tuple[NDArray[Any], ...]:
    """Map the arrays without a copy: they show what their process writes. Raises OSError if their
    process is gone.
    """
    return tuple(map(_view, places))


def _view(place: SharedArray) -> NDArray[Any]:
    item = np.dtype(place.dtype).itemsize
    return np.ndarray(
        place.shape,
        place.dtype,
        _mapping(place),
        item * place.offset,
        [item * step for step in place.strides],
    )


_mappings = WeakValueDictionary[
    tuple[int, int], mmap.mmap
]()  # by file, while an array lies there: each costs a descriptor


def _mapping(place: SharedArray) -> mmap.mmap:
    with open(place.path, "rb") as file:
        status = os.fstat(file.fileno())
        found = _mappings.get((status.st_dev, status.st_ino))
        if found is None:
            found = mmap.mmap(file.fileno(), place.size, prot=mmap.PROT_READ)
            _mappings[status.st_dev, status.st_ino] = found
    return found


def share(tensors: Iterable[Tensor]) -> bool:
    """Move `tensors` to where `SharedArray` finds them; they stay the same objects, as does what
    shares their memory.

    False, and nothing is moved, unless all are whole, float32 or bfloat16, and on a CPU, and there
    is room for them beside Ray's objects.
    """
    import torch

    alone: list[Tensor] = []
    others: dict[int, torch.UntypedStorage] = {}  # ZeRO's, whose own tensors lie there too
    for tensor in tensors:
        if (
            tensor.device.type != "cpu"
            or tensor.dtype not in (torch.float32, torch.bfloat16)
            or hasattr(tensor, "ds_id")
        ):
            return False
        storage = tensor.untyped_storage()
        if storage.is_shared():
            continue
        if torch._C._storage_Use_Count(storage._cdata) == ALONE:
            alone.append(tensor)
        else:
            others[storage._cdata] = storage
    size = sum(tensor.nbytes for tensor in alone) + sum(
        storage.nbytes() for storage in others.values()
    )
    if not machine() or not _is_room(size):
        return False
    for storage in others.values():
        storage.share_memory_()
    _move_to_one(alone)
    return True


def _move_to_one(tensors: Sequence[Tensor]) -> None:
    """Move all tensors that share no memory into one open file."""
    import torch

    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors]
    whole = torch.empty(sum(sizes), dtype=torch.uint8).share_memory_()
    for tensor, part in zip(tensors, whole.split(sizes), strict=True):
        tensor.data = (
            part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())
        )


def _is_room(size: int) -> bool:
    try:
        usage = shutil.disk_usage(SHM)
    except OSError:
        return False
    return usage.free - size >= KEPT_FREE * usage.total


BUCKET_BYTES = 32 << 20  # a tensor that is larger is a bucket of its own
WINDOW = 2  # buckets that are in memory at a time, where they are copies


@dataclass(frozen=True, slots=True)
class WeightBucket:
    """Named host tensors: a part of one policy version, or all of it (as
    `bimode.storage.weights.as_array` has them, zero-copy in the object store).

    `checksum` is that of the arrays where they were made: who receives them checks it
    (`checksum_ok`). `shared` are the places of the arrays, instead of them, where the sender's
    memory can be read (`load`).
    """

    version: int
    names: tuple[str, ...]
    arrays: tuple[NDArray[Any], ...]
    checksum: int
    shared: tuple[SharedArray, ...] = ()

    @staticmethod
    def of(version: int, names: Sequence[str], arrays: Sequence[NDArray[Any]]) -> WeightBucket:
        """Make a bucket with its checksum."""
        return WeightBucket(version, tuple(names), tuple(arrays), _checksum(arrays))

    def share(self, places: Sequence[SharedArray]) -> WeightBucket:
        """Return the bucket without the arrays, but with the places where they lie."""
        return replace(self, arrays=(), shared=tuple(places))

    def load(self) -> WeightBucket:
        """Map the shared arrays. Raises OSError if the sender is gone."""
        return replace(self, arrays=mapped(self.shared), shared=()) if self.shared else self

    def checksum_ok(self) -> bool:
        """Whether every byte is as it was sent."""
        return _checksum(self.arrays) == self.checksum


def _checksum(arrays: Sequence[NDArray[Any]]) -> int:
    """Return XXH3 over all bytes in order: as fast as memory, and 64 bits wide."""
    digest = xxhash.xxh3_64()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.intdigest()


def into_buckets(
    sizes: Iterable[tuple[str, int]], limit: int = BUCKET_BYTES
) -> list[tuple[str, ...]]:
    """Cut names, in their order, so that no bucket of several holds more than `limit` bytes.
    Example: ``(("a", 8), ...)``.
    """
    buckets: list[list[str]] = []
    room = 0
    for name, size in sizes:
        if not buckets or size > room:
            buckets.append([])
            room = limit
        buckets[-1].append(name)
        room -= size
    return [tuple(bucket) for bucket in buckets]
