"""Which prompts a step trains on: a pure function of (seed, step), so that a resumed run draws the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def batch_of(items: Sequence[Item], step: int, size: int, seed: int) -> list[Item]:
    """Items of `step`: epochs are permutations of all items, cut into consecutive batches that may span two epochs."""
    picked: list[Item] = []
    position = step * size
    while len(picked) < size:
        epoch, offset = divmod(position, len(items))
        order = np.random.default_rng([seed, epoch]).permutation(len(items))
        take = order[offset : offset + size - len(picked)]
        picked += [items[i] for i in take]
        position += len(take)
    return picked
