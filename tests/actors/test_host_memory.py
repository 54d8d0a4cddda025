"""Large tensors that are freed between pieces that stay: gone from the process, if they had mappings of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import torch
from pathlib import Path
from actors.host_memory import map_large_tensors

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024  # MB

map_large_tensors({on})
before, stay = resident(), []
for _ in range(20):
    large = torch.ones(2 << 20)  # 8 MB
    stay.append(torch.ones(2 << 10))  # a piece that stays, behind it
    other = torch.ones(2 << 20)
    del large, other
large = [torch.ones(2 << 20) for _ in range(20)]
stay += [torch.ones(2 << 10) for _ in range(20)]
del large
print(resident() - before)
"""


@pytest.mark.parametrize("on", [True, False])
def test_what_is_freed_goes_back_to_the_system(on: bool) -> None:
    """160 MB are freed under a piece that stays: the heap keeps them, mappings do not."""
    done = subprocess.run([sys.executable, "-c", CODE.format(on=on)], capture_output=True, text=True, check=True)
    kept = int(done.stdout)
    assert kept < 40 if on else kept > 100
