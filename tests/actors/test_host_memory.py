"""Large pieces that are freed between pieces that stay: gone from the process if they had mappings
of their own, else kept.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
from pathlib import Path
from actors.host_memory import keep_freed, map_large_tensors

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024  # MB

def piece(size):
    return b"x" * size

{how}
before, stay = resident(), []
for _ in range(20):
    large = piece(8 << 20)
    stay.append(piece(8 << 10))  # behind it
    other = piece(8 << 20)
    del large, other
large = [piece(8 << 20) for _ in range(20)]
stay += [piece(8 << 10) for _ in range(20)]
{after}
del large
{then}
print(resident() - before)
"""


def kept(how: str, after: str = "", then: str = "") -> int:
    """MB that stay with a process when 160 have been freed."""
    code = CODE.format(how=how, after=after, then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_what_is_freed_under_a_piece_that_stays_goes_back_only_if_it_was_mapped() -> None:
    assert kept("map_large_tensors(True)") < 40
    assert kept("map_large_tensors(False)") > 100


@pytest.mark.parametrize("on", [True, False])
def test_what_is_freed_on_top_goes_back_unless_it_is_to_be_kept(on: bool) -> None:
    found = kept(f"map_large_tensors(False); keep_freed({on})", "del stay")
    assert found > 100 if on else found < 100


def test_what_was_kept_goes_back_when_that_ends() -> None:
    """Also from under pieces that stay; updates of weights left more behind each time."""
    assert kept("map_large_tensors(False); keep_freed(True)", then="keep_freed(False)") < 40
