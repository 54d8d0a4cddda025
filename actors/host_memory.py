"""Where large tensors on a CPU come from while weights are loaded: mappings of their own, gone when they are freed.

A weight update frees each layer's old packed weights, and its new ones once they are packed. Cut out of glibc's heap, what lies
free between two pieces that stay is seldom of use for the next: a worker grew by 60 % of its model in ten updates, by 80 % in
forty. At other times the heap is faster, since its pages have been touched before.
"""

from __future__ import annotations

import ctypes

_MALLOPT = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
MAPPED = 1 << 20
HEAP, KEPT = 32 << 20, 64 << 20  # what glibc's own rule comes to once a large tensor was freed; mallopt ends that rule


def map_large_tensors(on: bool) -> None:
    """Whether tensors of a megabyte get a mapping each. Does nothing where the C library has no mallopt."""
    if _MALLOPT is not None:
        _MALLOPT(_MMAP_THRESHOLD, MAPPED if on else HEAP)
        _MALLOPT(_TRIM_THRESHOLD, KEPT)
