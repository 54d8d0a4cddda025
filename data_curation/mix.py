"""Which train questions are taken: topic and reasoning shares (R-4B, arXiv 2508.21113, Table 1).

topic       its rows queue by a hash of seed and id, and its share decides how many are taken from
            the front; rows of other topics change nothing in the queue
reasoning   each mode has a queue of its own. A question tagged `either`, or paired, is exported in
            both formats: with a thinking, b direct and c in both, the share of rows that reason is
            (a + c) / (a + b + 2 c)
shortage    what is not there is not replaced by something else: there are fewer rows, and a line
            that says so
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bimode.config.mix import MixConfig
from bimode.errors import StarvedError
from data_curation.formats import share_of
from data_curation.store import Store
from data_curation.tagging.tagging import ALIVE_TRAIN

MIX_COLUMNS = ("id", "task", "domain", "mode")
MODES = ("thinking", "non_thinking", "either")
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TopicCount:
    """Questions of a topic, and shares of its rows that reason. E.g. ``TopicCount("chart", 150,
    400, 150, 0.45, 0.45)``.
    """

    topic: str  # "" is all topics without a share of their own
    wanted: int
    available: int
    taken: int
    reasoning_wanted: float | None
    reasoning: float


@dataclass(frozen=True, slots=True)
class Mixed:
    """Rows that are taken, in the order of their hash; the others, with `detail`; what each topic
    had and lacked.
    """

    kept: pa.Table
    left: pa.Table
    topics: tuple[TopicCount, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic with its queues of row numbers: one, or one for each of MODES where a reasoning share
    is asked for.
    """

    name: str
    share: float
    reasoning: float | None
    queues: tuple[Ints, ...]

    def __str__(self) -> str:
        return f"topic {self.name}" if self.name else "all other topics"

    def describe(self) -> str:
        """What is asked of it and what it has."""
        if self.reasoning is None:
            return f"share {self.share:g}, {sum(self.sizes)} questions"
        return (
            f"share {self.share:g}, reasoning {self.reasoning:g}, thinking, direct and either"
            f" questions: {self.sizes}"
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the queues."""
        return tuple(map(len, self.queues))

    def split(self, n: int) -> tuple[int, ...]:
        """How many of each queue make `n` questions."""
        return (n,) if self.reasoning is None else split_modes(n, self.sizes, self.reasoning)

    def has(self, n: int) -> bool:
        """Whether `n` questions are there in full."""
        return all(wanted <= size for wanted, size in zip(self.split(n), self.sizes, strict=True))

    @property
    def most(self) -> int:
        """The largest number that is there in full."""
        return bisect_left(range(1, sum(self.sizes) + 1), True, key=lambda n: not self.has(n))

    def shortage(self, n: int) -> list[str]:
        """A line for each queue that is too short for `n` questions."""
        kinds = ("questions",) if self.reasoning is None else ("thinking", "direct", "either")
        return [
            f"curate.mix: {self} wants {wanted} {kind} for {n} questions and has {size}:"
            f" {wanted - size} fewer are taken"
            for kind, wanted, size in zip(kinds, self.split(n), self.sizes, strict=True)
            if wanted > size
        ]


def mix(rows: pa.Table, config: MixConfig, seed: int, paired_share: float = 0.0) -> Mixed:
    """Chooses of `rows`: MIX_COLUMNS, a train question each, ids unique; further columns are passed
    on.

    `paired_share` is `curate.paired_share`: these questions are exported in both formats whatever
    their tag. Raises StarvedError if `rows` is left to the scarcest topic and that has none.
    """
    keys_R, topic_R, mode_R = (
        _keys(rows["id"], seed),
        _topic_codes(rows, config),
        _mode_codes(rows, paired_share),
    )
    topics = _topics(config, keys_R, topic_R, mode_R)
    total = config.rows or _scarcest(topics)
    wanted = apportion(total, [topic.share for topic in topics])
    taken, counts = [], []
    for topic, n in zip(topics, wanted, strict=True):
        part = np.concatenate(
            [queue[:k] for queue, k in zip(topic.queues, topic.split(n), strict=True)]
        )
        share = _reasoning_share(mode_R[part])
        counts.append(
            TopicCount(topic.name, n, sum(topic.sizes), len(part), topic.reasoning, share)
        )
        taken.append(part)
    kept = np.concatenate(taken)
    kept = kept[np.argsort(keys_R[kept])]
    left = np.setdiff1d(np.arange(rows.num_rows), kept)
    details = [
        f"beyond {count.taken} of {topic}" for topic, count in zip(topics, counts, strict=True)
    ]
    return Mixed(
        rows.take(kept),
        rows.take(left).append_column(
            "detail", pa.array([details[code] for code in topic_R[left]], pa.string())
        ),
        tuple(counts),
        tuple(line for topic, n in zip(topics, wanted, strict=True) for line in topic.shortage(n)),
    )


def leave_out(store: Store, config: MixConfig, seed: int, paired_share: float) -> tuple[str, ...]:
    """Rejects the train questions beyond the mix, and returns a line for each shortage.

    With no question at all, no share is to blame: `publishing.alerts` tells the reasons.
    """
    rows = store.table(["file", "row", *MIX_COLUMNS], ALIVE_TRAIN)
    if not rows.num_rows:
        return ()
    mixed = mix(rows, config, seed, paired_share)
    beyond = mixed.left.select(["file", "row", "detail"]).to_pylist()
    store.update(["reason", "detail"], (row | {"reason": "mix"} for row in beyond))
    return mixed.lines


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `shares`, which add to 1: largest remainders, so each within
    one of total * share.
    """
    exact = [round(total * share, 9) for share in shares]
    counts = [math.floor(each) for each in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def split_modes(n: int, sizes: tuple[int, ...], share: float) -> tuple[int, int, int]:
    """(a, b, c): how many thinking, direct and either questions make `n` of which `share` of the
    rows reason, to half a row.

    From (a + c) / (n + c) = share: a = share n - (1 - share) c and b = (1 - share) n - share c. Of
    the c for which a and b are neither below 0 nor more than there are, the one nearest to the part
    of `either` in the topic.
    """
    thinking, direct, either = sizes
    upper = [float(either)] + [
        n * x / y for x, y in ((share, 1 - share), (1 - share, share)) if y > 0
    ]
    lower = [0.0] + [
        (n * x - there) / y
        for x, y, there in ((share, 1 - share, thinking), (1 - share, share, direct))
        if y > 0
    ]
    usual = round(n * either / max(sum(sizes), 1))
    c = min(max(usual, math.ceil(min(n, max(lower)) - 1e-9)), math.floor(min(upper) + 1e-9))
    a = min(max(round(share * n - (1 - share) * c), 0), n - c)
    return a, n - c - a, c


def _topics(
    config: MixConfig, keys_R: NDArray[np.uint64], topic_R: Ints, mode_R: Ints
) -> list[Topic]:
    """The named topics in the recipe's order, then all others, which get what is left of 1."""
    rest = max(0.0, 1.0 - math.fsum(config.topics.values()))
    by_key = np.argsort(keys_R)
    topics = []
    for code, (name, share) in enumerate(
        [*config.topics.items(), ("", 0.0 if rest < 1e-9 else rest)]
    ):
        reasoning = config.reasoning_by_topic.get(name, config.reasoning)
        queue = by_key[topic_R[by_key] == code]
        queues = (
            (queue,)
            if reasoning is None
            else tuple(queue[mode_R[queue] == mode] for mode in range(len(MODES)))
        )
        topics.append(Topic(name, share, reasoning, queues))
    return topics


def _scarcest(topics: Sequence[Topic]) -> int:
    """The largest total that every topic can give its share of. Raises StarvedError if it is 0."""
    limits = [
        (math.floor(topic.most / topic.share + 1e-9), topic) for topic in topics if topic.share
    ]
    total, scarcest = min(limits, key=lambda limit: limit[0])
    while total and not all(
        topic.has(n)
        for topic, n in zip(topics, apportion(total, [t.share for t in topics]), strict=True)
    ):
        total -= 1  # a remainder may ask for one more
    if not total:
        fix = "leave it out, let the shares add to 1, or set curate.mix.rows and have fewer"
        raise StarvedError(f"curate.mix: {scarcest} ({scarcest.describe()}) allows no rows; {fix}")
    return total


def _keys(ids: pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """A hash of seed and id. Not that of `formats.share_of`: by it the paired questions would be
    the first of every queue.
    """
    digests = (
        hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
        for name in ids.to_pylist()
    )
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def _topic_codes(rows: pa.Table, config: MixConfig) -> Ints:
    """Position of each row's topic in the recipe; that of all others is the number of topics."""
    codes = pc.index_in(rows[config.by], pa.array(list(config.topics), pa.string()))
    return _numbers(codes.fill_null(len(config.topics)))


def _mode_codes(rows: pa.Table, paired_share: float) -> Ints:
    """Position in MODES of how each row is exported."""
    codes = _numbers(pc.index_in(rows["mode"], pa.array(MODES)).fill_null(MODES.index("either")))
    if paired_share:
        paired = np.fromiter(
            (share_of(name) < paired_share for name in rows["id"].to_pylist()), bool, rows.num_rows
        )
        codes[paired] = MODES.index("either")
    return codes


def _reasoning_share(modes: Ints) -> float:
    """Of the rows that questions with these codes are exported as."""
    thinking, direct, either = np.bincount(modes, minlength=len(MODES)).tolist()
    return (thinking + either) / max(thinking + direct + 2 * either, 1)


def _numbers(codes: pa.ChunkedArray) -> Ints:
    return codes.to_numpy().astype(np.int64)
