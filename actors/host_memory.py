"""Where large tensors of a CPU worker come from, and whether freed memory goes back to the system
(glibc's mallopt(3)).

While an engine is made, each layer's weights are loaded, packed and freed between pieces that stay.
Mappings of their own go back to the system at once, where holes in the heap would not. Later the
heap is faster, since its pages have been touched before. A module of its own, since it imports no
vLLM.
"""

from __future__ import annotations

import ctypes

_MALLOPT = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
MAPPED = 1 << 20
# HEAP and KEPT are glibc's own rule, once a large tensor was freed; mallopt ends that rule
HEAP = 32 << 20
KEPT = 64 << 20
ALL = -1


def map_large_tensors(on: bool) -> None:
    """Whether tensors of a megabyte get a mapping each. Does nothing where the C library has no
    mallopt.
    """
    if _MALLOPT is not None:
        _MALLOPT(_MMAP_THRESHOLD, MAPPED if on else HEAP)
        _MALLOPT(_TRIM_THRESHOLD, KEPT)


def keep_freed(on: bool) -> None:
    """Keep freed memory in the process for later allocations, or stop doing so: what was kept goes
    back when that ends. Does nothing where the C library has no mallopt.
    """
    if _MALLOPT is not None:
        _MALLOPT(_TRIM_THRESHOLD, ALL if on else KEPT)
    if _TRIM is not None and not on:
        _TRIM(0)
