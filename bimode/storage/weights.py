"""Weights between learner and rollout workers: buckets of named tensors, each small beside the
model, each with its checksum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from bimode.storage.shared_memory import SharedArray, mapped

BUCKET_BYTES = 32 << 20  # a tensor that is larger is a bucket of its own
WINDOW = 2  # buckets that are in memory at a time, where they are copies


@dataclass(frozen=True, slots=True)
class WeightBucket:
    """Named host tensors: a part of one policy version, or all of it (as
    `bimode.storage.shared_memory.as_array` has them, zero-copy in the object store).

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
        """A bucket with its checksum."""
        return WeightBucket(version, tuple(names), tuple(arrays), _checksum(arrays))

    def share(self, places: Sequence[SharedArray]) -> WeightBucket:
        """Without the arrays, but with where they lie."""
        return replace(self, arrays=(), shared=tuple(places))

    def load(self) -> WeightBucket:
        """With the arrays that are lent. Raises OSError if their sender is gone."""
        return replace(self, arrays=mapped(self.shared), shared=()) if self.shared else self

    def checksum_ok(self) -> bool:
        """Whether every byte is as it was sent."""
        return _checksum(self.arrays) == self.checksum


def _checksum(arrays: Sequence[NDArray[Any]]) -> int:
    """XXH3 over all bytes in order: as fast as memory, and 64 bits wide."""
    digest = xxhash.xxh3_64()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.intdigest()


def into_buckets(
    sizes: Iterable[tuple[str, int]], limit: int = BUCKET_BYTES
) -> list[tuple[str, ...]]:
    """Names in their order, cut so that no bucket of several holds more than `limit` bytes.
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
