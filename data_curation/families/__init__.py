"""Task families on real sources that ship inside wheels: nothing is downloaded.

A family is a function ``(index, split, seed, weights) -> Sample``; equal arguments give equal bytes.
"""

from __future__ import annotations
