"""Which question is the k-th of a run: a pure function of the seed, so that a resumed run draws the
same ones.

The k-th draw of a run is its *group* k: epochs are permutations of all questions, one after the
other without end.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def item_of(group_id: int, num_items: int, seed: int) -> int:
    """The index of group's item among `num_items`."""
    epoch, offset = divmod(group_id, num_items)
    return int(_permutation(num_items, epoch, seed)[offset])


@lru_cache(maxsize=4)
def _permutation(num_items: int, epoch: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_items)
