"""Pictures that are the same but for their encoding.

Two pictures are near where their perceptual hashes differ in a few bits and their thumbnails in no
more than an encoder adds, once brightness and contrast are taken out. The hash alone cannot tell:
noise flips the bits of frequencies that a plain picture hardly has, so a JPEG copy of a bar chart
may lie 36 bits away, and strips with another handwriting of the same digit 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_curation.dedup.fingerprints import HASH_SIZE, THUMB_BYTES

WORDS = HASH_SIZE * HASH_SIZE // 64
# Gray levels (of 255), root mean square over the thumbnail. Set on the three families, 40 x 40 with
# noise: of 20,100 pictures the closest two that have one answer and were drawn apart are at 1.86;
# of 400 copies a family those by JPEG of quality 70, twice the size, both, or brighter by 8 reach
# 1.65. Quality 50 reaches 2.2 and half the size 7.6: such copies of noisy pictures are missed.
TOLERANCE = 1.8
MORE_LIGHT = 48  # gray levels by which the mean may differ: night is another picture than day
BLOCK = 512  # rows that are compared at once: the matrices stay in the cache


@dataclass(frozen=True, slots=True)
class Pictures:
    """Fingerprints of the pictures of rows that have `n` pictures each, in order of priority.

    `hashes` (rows, n, 4) uint64; `thumbs` (rows, n, 400) uint8; `mean` and `std` (rows, n) float64,
    of the thumbnails.
    """

    hashes: np.ndarray
    thumbs: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, hashes: list[bytes], thumbs: list[bytes], n: int) -> Pictures:
        """From the bytes of each row's hashes and thumbnails."""
        words = np.frombuffer(b"".join(hashes), dtype="<u8").reshape(len(hashes), n, WORDS)
        gray = np.frombuffer(b"".join(thumbs), dtype=np.uint8).reshape(len(thumbs), n, THUMB_BYTES)
        return cls(words, gray, gray.mean(2), gray.std(2))

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, at: np.ndarray | slice) -> Pictures:
        """The rows `at`."""
        return Pictures(self.hashes[at], self.thumbs[at], self.mean[at], self.std[at])


def join(parts: list[Pictures]) -> Pictures:
    """The rows of `parts`, one after another."""
    names = ("hashes", "thumbs", "mean", "std")
    return Pictures(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def near(one: Pictures, two: Pictures, radius: int) -> np.ndarray:
    """(rows of one, rows of two) bool: each picture of the one is near the same picture of the
    other.
    """
    return _alike(one, two, _hashes_near(one, two, radius))


def near_before(pictures: Pictures, radius: int) -> np.ndarray:
    """(rows, rows) bool: whether a row is near one before it."""
    close = _hashes_near(pictures, pictures, radius)
    return _alike(pictures, pictures, np.tril(close, -1))


def near_each(one: Pictures, two: Pictures, radius: int) -> np.ndarray:
    """(rows,) bool: row by row, whether each picture of the one is near that of the other."""
    products = np.einsum("rnp,rnp->rn", _centered(one.thumbs), _centered(two.thumbs))
    close = _bits_apart(one.hashes, two.hashes) <= radius
    close &= _same_gray(products, one.mean, one.std, two.mean, two.std)
    return np.asarray(close.all(1))


def _hashes_near(one: Pictures, two: Pictures, radius: int) -> np.ndarray:
    close = np.ones((len(one), len(two)), dtype=bool)
    for k in range(one.hashes.shape[1]):
        close &= _bits_apart(one.hashes[:, None, k], two.hashes[None, :, k]) <= radius
    return close


def _alike(one: Pictures, two: Pictures, close: np.ndarray) -> np.ndarray:
    """`close` where the thumbnails are alike too; the rows and columns that are close to none are
    not looked at.

    The products are sums of integers below 2**24, exact in float32: equal whatever the number of
    threads.
    """
    rows, columns = np.flatnonzero(close.any(1)), np.flatnonzero(close.any(0))
    if rows.size:
        a, b = one.take(rows), two.take(columns)
        for k in range(one.hashes.shape[1]):
            products = _centered(a.thumbs[:, k]) @ _centered(b.thumbs[:, k]).T
            same = _same_gray(
                products,
                a.mean[:, k, None],
                a.std[:, k, None],
                b.mean[None, :, k],
                b.std[None, :, k],
            )
            close[np.ix_(rows, columns)] &= same
    return close


def _bits_apart(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Hamming distance over the last axis, which holds the words of a hash; the others are
    broadcast.
    """
    bits = np.bitwise_count(one[..., 0] ^ two[..., 0]).astype(np.uint16)
    for word in range(1, WORDS):
        bits += np.bitwise_count(one[..., word] ^ two[..., word])
    return bits


def _centered(thumbs: np.ndarray) -> np.ndarray:
    return thumbs.astype(np.float32) - 128


def _same_gray(
    products: np.ndarray,
    mean_a: np.ndarray,
    std_a: np.ndarray,
    mean_b: np.ndarray,
    std_b: np.ndarray,
) -> np.ndarray:
    """Whether thumbnails brought to one mean and contrast differ by TOLERANCE at most, at the
    larger contrast of the two.

    ``max(s_a, s_b) * rms((a - m_a) / s_a - (b - m_b) / s_b)`` gray levels, where the contrast ``s``
    of a flat picture counts as 1; `products` are sums over the thumbnails less 128.
    """
    covariance = products / THUMB_BYTES - (mean_a - 128) * (mean_b - 128)
    s_a = np.maximum(std_a, 1.0)
    s_b = np.maximum(std_b, 1.0)
    own = (std_a / s_a) ** 2 + (std_b / s_b) ** 2
    square = own - 2 * covariance / (s_a * s_b)
    apart = np.maximum(s_a, s_b) * np.sqrt(np.maximum(square, 0))
    same_light = np.abs(mean_a - mean_b) <= MORE_LIGHT
    return np.asarray(same_light & (apart <= TOLERANCE))


class KeptPictures:
    """The pictures kept so far of one group of rows that ask and answer the same, in order of
    priority.
    """

    def __init__(self, radius: int) -> None:
        self._radius = radius
        self._parts: list[tuple[np.ndarray, Pictures]] = []

    def add(self, ranks: np.ndarray, pictures: Pictures) -> None:
        """Keeps rows; small parts are joined, so that comparing takes few steps."""
        if self._parts and len(self._parts[-1][0]) + len(ranks) <= BLOCK:
            last, before = self._parts.pop()
            ranks, pictures = np.concatenate([last, ranks]), join([before, pictures])
        self._parts.append((ranks, pictures))

    def first_near(self, pictures: Pictures) -> np.ndarray:
        """For each row the rank of the first kept row that it is near, or -1."""
        first = np.full(len(pictures), -1)
        for ranks, kept in self._parts:
            open_ = np.flatnonzero(first < 0)
            close = near(pictures.take(open_), kept, self._radius)
            hit = close.any(1)
            first[open_[hit]] = ranks[close[hit].argmax(1)]
        return first

    def all_near(self, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
        """Rows and the ranks of the kept rows that they are near, pair by pair."""
        rows, hits = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for ranks, kept in self._parts:
            row, column = np.nonzero(near(pictures, kept, self._radius))
            rows.append(row)
            hits.append(ranks[column])
        return np.concatenate(rows), np.concatenate(hits)

    def place(self, ranks: np.ndarray, pictures: Pictures, fixed: np.ndarray) -> np.ndarray:
        """Keeps the rows that are near no kept row and no row before them that is kept; `fixed`
        ones are kept in any case.

        Returns for each row the rank of the first kept row that it repeats, or -1.
        """
        first = []
        for start in range(0, len(ranks), BLOCK):
            block = slice(start, start + BLOCK)
            first.append(self._place(ranks[block], pictures.take(block), fixed[block]))
        return np.concatenate(first)

    def _place(self, ranks: np.ndarray, pictures: Pictures, fixed: np.ndarray) -> np.ndarray:
        first = np.where(fixed, -1, self.first_near(pictures))
        left = np.flatnonzero(first < 0)
        among = near_before(pictures.take(left), self._radius)
        # In order of priority: a row that is rejected rejects no other.
        for i in np.flatnonzero(among.any(1) & ~fixed[left]):
            kept = np.flatnonzero(among[i] & (first[left] < 0))
            if kept.size:
                first[left[i]] = ranks[left[kept[0]]]
        stays = np.flatnonzero(first < 0)
        if stays.size:
            self.add(ranks[stays], pictures.take(stays))
        return first
