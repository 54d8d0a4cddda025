"""Which prompts a step trains on: a pure function of (seed, step), so that a resumed run draws the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def batch_of(items: Sequence[Item], step: int, size: int, seed: int) -> list[Item]:
    """Items of `step`: epochs are permutations of all items, cut into consecutive batches that may span two epochs."""
    return [items[i] for i in _positions(len(items), step, size, seed)]


def stream_of(items: Sequence[Item], step: int, size: int, seed: int) -> Iterator[Item]:
    """`batch_of` the step, and then without end what may replace its items: the others, shuffled for this step."""
    batch = _positions(len(items), step, size, seed)
    yield from (items[i] for i in batch)
    others = sorted(set(range(len(items))) - set(batch)) or batch
    for epoch in count():
        yield from (items[i] for i in np.random.default_rng([seed, step, epoch]).permutation(others))


def _positions(num_items: int, step: int, size: int, seed: int) -> list[int]:
    picked: list[int] = []
    position = step * size
    while len(picked) < size:
        epoch, offset = divmod(position, num_items)
        order = np.random.default_rng([seed, epoch]).permutation(num_items)
        take = order[offset : offset + size - len(picked)].tolist()
        picked += take
        position += len(take)
    return picked
