"""Tensors that another process reads where they lie: the same bytes, at once, and nothing that it
does comes back.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bimode.storage import weights
from bimode.storage.weights import SharedArray, WeightBucket, as_array, machine, mapped, share

READ = """
import sys
from bimode.storage.weights import SharedArray, mapped
(array,) = mapped([SharedArray(sys.argv[1], int(sys.argv[2]), 0, (2, 3), (3, 1), '<f4')])
print(array.tolist(), flush=True)
input()
print(array[1].tolist(), array.flags.writeable, "torch" in sys.modules)
"""


def place(tensor: torch.Tensor) -> SharedArray:
    found = SharedArray.of(tensor)
    assert found is not None
    return found


def test_another_process_sees_it_and_what_becomes_of_it_and_cannot_change_it() -> None:
    tensor = torch.arange(6.0).view(2, 3)
    assert SharedArray.of(tensor) is None, "where it lies is this process's own"
    assert share([tensor])
    at = place(tensor)
    reader = subprocess.Popen(
        [sys.executable, "-c", READ, at.path, str(at.size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]\n"
    tensor[1] = 7.0
    assert reader.communicate("\n")[0] == "[7.0, 7.0, 7.0] False False\n"


def test_parameters_stay_what_they_are() -> None:
    """Alone, tied, turned, and cut out of one flat tensor, as ZeRO has them."""
    flat = torch.arange(10.0)
    cut = [torch.nn.Parameter(flat[:4].view(2, 2)), torch.nn.Parameter(flat[4:])]
    alone = [torch.nn.Parameter(torch.full((3,), 2.0)), torch.nn.Parameter(torch.tensor(5.0))]
    turned = torch.arange(6.0).view(2, 3).t()
    half = torch.tensor([1.5, -2.0, 3.0], dtype=torch.bfloat16)
    tensors = [*cut, *alone, turned, half]
    before = [as_array(t.detach().clone()) for t in tensors]
    assert share(tensors) and share(tensors)
    found = mapped([place(t) for t in tensors])
    assert all(np.array_equal(f, b) for f, b in zip(found, before, strict=True))
    assert place(alone[0]).path == place(alone[1]).path, "one open file for all that lie alone"
    flat += 1
    torch.optim.SGD(alone, lr=1.0).step()
    with torch.no_grad():
        alone[0] += 1
    assert found[1].tolist() == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert found[2].tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "why",
    [
        lambda patch: [torch.ones(2, dtype=torch.float16)],
        lambda patch: [torch.ones(2, device="meta")],
        lambda patch: patch.setattr(weights, "SHM", Path("/nowhere")) or [torch.ones(2)],
        lambda patch: patch.setattr(weights, "KEPT_FREE", 1.0) or [torch.ones(2)],
        lambda patch: patch.setattr(weights, "BOOT_ID", Path("/nowhere")) or [torch.ones(2)],
    ],
    ids=["precision", "device", "no-shm", "no-room", "no-proc"],
)
def test_what_cannot_be_lent_stays_where_it_is(
    why: Callable[[pytest.MonkeyPatch], list[torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = torch.ones(3)
    assert not share([good, *why(monkeypatch)])
    assert SharedArray.of(good) is None


def test_a_bucket_that_is_lent_says_where_it_lies_and_nothing_else() -> None:
    weights = torch.arange(4.0)
    assert share([weights])
    bucket = WeightBucket.of(2, ["w"], [weights.numpy()])
    shared = bucket.share([place(weights)])
    assert shared.arrays == () and hash(shared) == hash(bucket.share([place(weights)]))
    assert shared.load().checksum_ok() and np.array_equal(shared.load().arrays[0], weights.numpy())
    assert bucket.load() is bucket
    weights[0] = 9.0
    assert not shared.load().checksum_ok()


def test_what_others_hold_stays_theirs() -> None:
    """Also of a storage with a single parameter, as of ZeRO's group of one."""
    flat = torch.zeros(4)
    parameter = torch.nn.Parameter(flat.view(2, 2))
    assert share([parameter, torch.nn.Parameter(torch.ones(2))])
    flat += 1
    assert mapped([place(parameter)])[0].tolist() == parameter.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_file_is_open_once_however_much_of_it_is_read() -> None:
    """And not at all once nobody reads it: buckets are many, and a worker may have few files
    open.
    """
    tensors = [torch.full((3,), float(i)) for i in range(200)]
    assert share(tensors)
    before = len(os.listdir("/proc/self/fd"))
    found = [mapped([place(tensor)])[0] for tensor in tensors]
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert [array[2] for array in found] == list(range(200))
    del found
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_lent_it_is_gone() -> None:
    with pytest.raises(OSError, match="9999"):
        mapped([SharedArray(f"/proc/{os.getpid()}/fd/9999", 8, 0, (2,), (1,), "<f4")])


def test_processes_of_one_machine_agree_on_its_name() -> None:
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "from bimode.storage.weights import machine; print(machine())",
        ],
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == machine() != ""


def test_where_no_other_process_may_be_looked_into_there_is_no_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert machine() == "" and not share([torch.ones(2)])
