"""The key-value cache of an engine on a CPU: zeros that take neither time nor room before they are
used.
"""

from __future__ import annotations

import psutil
import pytest
import torch

pytestmark = pytest.mark.ray  # it loads vLLM, whose cache it is

SIZE = 256 << 20


def test_it_is_zero_aligned_and_not_there_before_it_is_touched() -> None:
    from actors.cpu_memory import ALIGNMENT, Untouched

    before = psutil.Process().memory_info().rss
    with Untouched():
        cache = torch.zeros(SIZE, dtype=torch.int8, device=torch.device("cpu"))
        other = torch.zeros(3)
    assert psutil.Process().memory_info().rss - before < SIZE // 8
    assert (
        cache.shape == (SIZE,) and cache.data_ptr() % ALIGNMENT == 0 and cache.storage_offset() == 0
    )
    assert not cache[:: 1 << 20].any() and torch.equal(other, torch.zeros(3))
    cache[-1] = 1
    assert int(cache[-1]) == 1
