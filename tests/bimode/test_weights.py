"""Buckets of weights: every name once, in order, none too large; a changed bit is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bimode.storage.weights import WeightBucket, into_buckets


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 60))
def test_every_name_is_in_one_bucket(sizes: list[int], limit: int) -> None:
    named = [(str(i), size) for i, size in enumerate(sizes)]
    buckets = into_buckets(named, limit)
    assert [name for bucket in buckets for name in bucket] == [name for name, _ in named]
    assert all(
        len(bucket) == 1 or sum(sizes[int(n)] for n in bucket) <= limit for bucket in buckets
    )
    assert all(buckets)


def test_by_hand() -> None:
    assert into_buckets([("a", 3), ("b", 1), ("c", 9), ("d", 2), ("e", 2)], 4) == [
        ("a", "b"),
        ("c",),
        ("d", "e"),
    ]


@given(st.integers(0, 95))
def test_a_changed_bit_is_seen(bit: int) -> None:
    bucket = WeightBucket.of(
        3, ["w", "b"], [np.arange(2.0, dtype=np.float32), np.ones((1,), np.float32)]
    )
    assert (
        bucket.checksum_ok()
        and replace(bucket, arrays=tuple(a.copy() for a in bucket.arrays)).checksum_ok()
    )
    arrays = [a.copy() for a in bucket.arrays]
    arrays[bit // 64].reshape(-1).view(np.uint8)[bit % 64 // 8] ^= 1 << bit % 8
    assert not replace(bucket, arrays=tuple(arrays)).checksum_ok()


def test_arrays_without_dimensions_and_views() -> None:
    scalar, turned = np.array(2.0, np.float32), np.arange(6.0, dtype=np.float32).reshape(2, 3).T
    assert WeightBucket.of(0, ["s", "t"], [scalar, turned]).checksum_ok()
    assert (
        WeightBucket.of(0, ["t"], [turned]).checksum
        != WeightBucket.of(0, ["t"], [turned.T]).checksum
    )
