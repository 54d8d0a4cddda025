"""Which train questions are taken: topic and reasoning shares (R-4B, arXiv 2508.21113, Table 1).

topic       its rows queue by a hash of seed and id, and its share decides how many are taken from
            the front; rows of other topics change nothing in the queue
reasoning   each mode has a queue of its own. A question tagged `either`, or paired, is exported in
            both formats: with a thinking, b non-thinking and c in both, the share of rows that
            reason is (a + c) / (a + b + 2 c)
shortage    missing questions are not replaced by others: there are fewer rows, and a line in the
            log
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
    """A topic with its queues of row numbers: one, or one for each of MODES if there is a reasoning
    share.
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
            f"share {self.share:g}, reasoning {self.reasoning:g}, thinking, non-thinking and either"
            f" questions: {self.sizes}"
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the queues."""
        return tuple(map(len, self.queues))

    def split(self, n: int) -> tuple[int, ...]:
        """How many of each queue make `n` questions."""
        return (n,) if self.reasoning is None else split_modes(n, self.sizes, self.reasoning)

    def take(self, n: int) -> Ints:
        """Row numbers of `n` questions, of fewer if there is a shortage."""
        pairs = zip(self.queues, self.split(n), strict=True)
        return np.concatenate([queue[:count] for queue, count in pairs])

    def has(self, n: int) -> bool:
        """Whether `n` questions are there in full."""
        return all(wanted <= size for wanted, size in zip(self.split(n), self.sizes, strict=True))

    @property
    def most(self) -> int:
        """The largest number that is there in full."""
        return bisect_left(range(1, sum(self.sizes) + 1), True, key=lambda n: not self.has(n))

    def limit(self) -> int:
        """The largest total of which it has its share in full."""
        return math.floor(self.most / self.share + 1e-9)

    def shortage(self, n: int) -> list[str]:
        """A line for each queue that is too short for `n` questions."""
        kinds = ("questions",) if self.reasoning is None else ("thinking", "non-thinking", "either")
        lines = []
        for kind, wanted, size in zip(kinds, self.split(n), self.sizes, strict=True):
            if wanted > size:
                lines.append(
                    f"curate.mix: {self} wants {wanted} {kind} for {n} questions and has {size}:"
                    f" {wanted - size} fewer are taken"
                )
        return lines


def mix(rows: pa.Table, config: MixConfig, seed: int, paired_share: float = 0.0) -> Mixed:
    """Chooses of `rows`: MIX_COLUMNS, a train question each, ids unique; further columns are passed
    on.

    `paired_share` is `curate.paired_share`: these questions are exported in both formats whatever
    their tag. Raises StarvedError if `rows` is left to the scarcest topic and that has none.
    """
    keys_R, topic_R = _keys(rows["id"], seed), _topic_codes(rows, config)
    mode_R = _mode_codes(rows, paired_share)
    topics = _topics(config, keys_R, topic_R, mode_R)
    total = config.rows or _scarcest(topics)
    wanted = apportion(total, [topic.share for topic in topics])
    taken, counts, details, lines = [], [], [], []
    for topic, n in zip(topics, wanted, strict=True):
        part = topic.take(n)
        available, share = sum(topic.sizes), _reasoning_share(mode_R[part])
        counts.append(TopicCount(topic.name, n, available, len(part), topic.reasoning, share))
        details.append(f"beyond {len(part)} of {topic}")
        lines += topic.shortage(n)
        taken.append(part)
    kept = np.concatenate(taken)
    kept = kept[np.argsort(keys_R[kept])]
    left = np.setdiff1d(np.arange(rows.num_rows), kept)
    beyond = pa.array([details[code] for code in topic_R[left]], pa.string())
    return Mixed(
        rows.take(kept),
        rows.take(left).append_column("detail", beyond),
        tuple(counts),
        tuple(lines),
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
    """(a, b, c): how many thinking, non-thinking and either questions make `n`, so that `share` of
    the rows reason, to half a row.

    From (a + c) / (n + c) = share: a = share n - (1 - share) c and b = (1 - share) n - share c. Of
    the c for which a and b are neither below 0 nor more than there are, the one nearest to the part
    of `either` in the topic.
    """
    thinking, non_thinking, either = sizes
    lower, upper = 0.0, float(either)
    for own, other, there in ((share, 1 - share, thinking), (1 - share, share, non_thinking)):
        if other > 0:  # 0 <= own n - other c <= there
            lower = max(lower, (n * own - there) / other)
            upper = min(upper, n * own / other)
    usual = round(n * either / max(sum(sizes), 1))
    c = min(max(usual, math.ceil(min(n, lower) - 1e-9)), math.floor(upper + 1e-9))
    a = min(max(round(share * n - (1 - share) * c), 0), n - c)
    return a, n - c - a, c


def _topics(
    config: MixConfig, keys_R: NDArray[np.uint64], topic_R: Ints, mode_R: Ints
) -> list[Topic]:
    """Return the named topics in the recipe's order, then one topic for all others, whose share is
    1 minus the named shares.
    """
    rest = max(0.0, 1.0 - math.fsum(config.topics.values()))
    shares = config.topics | {"": rest if rest >= 1e-9 else 0.0}
    by_key = np.argsort(keys_R)
    topics = []
    for code, (name, share) in enumerate(shares.items()):
        reasoning = config.reasoning_by_topic.get(name, config.reasoning)
        queue = by_key[topic_R[by_key] == code]
        queues = [queue]
        if reasoning is not None:
            queues = [queue[mode_R[queue] == mode] for mode in range(len(MODES))]
        topics.append(Topic(name, share, reasoning, tuple(queues)))
    return topics


def _scarcest(topics: Sequence[Topic]) -> int:
    """The largest total that every topic can give its share of. Raises StarvedError if it is 0."""
    shared = [topic for topic in topics if topic.share]
    scarcest = min(shared, key=Topic.limit)
    total = scarcest.limit()
    while total and not _all_there(topics, total):
        total -= 1  # a remainder may ask for one more
    if not total:
        fix = "leave it out, let the shares add to 1, or set curate.mix.rows and have fewer"
        raise StarvedError(f"curate.mix: {scarcest} ({scarcest.describe()}) allows no rows; {fix}")
    return total


def _all_there(topics: Sequence[Topic], total: int) -> bool:
    counts = apportion(total, [topic.share for topic in topics])
    return all(topic.has(n) for topic, n in zip(topics, counts, strict=True))


def _keys(ids: pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """A hash of seed and id. Not that of `formats.share_of`: by it the paired questions would be
    the first of every queue.
    """
    keys = []
    for name in ids.to_pylist():
        digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
        keys.append(int.from_bytes(digest))
    return np.array(keys, dtype=np.uint64)


def _topic_codes(rows: pa.Table, config: MixConfig) -> Ints:
    """Position of each row's topic in the recipe; that of all others is the number of topics."""
    codes = pc.index_in(rows[config.by], pa.array(list(config.topics), pa.string()))
    return _numbers(codes.fill_null(len(config.topics)))


def _mode_codes(rows: pa.Table, paired_share: float) -> Ints:
    """Position in MODES of how each row is exported."""
    codes = _numbers(pc.index_in(rows["mode"], pa.array(MODES)).fill_null(MODES.index("either")))
    if paired_share:
        paired = [share_of(name) < paired_share for name in rows["id"].to_pylist()]
        codes[np.array(paired, dtype=bool)] = MODES.index("either")
    return codes


def _reasoning_share(modes: Ints) -> float:
    """Of the rows that questions with these codes are exported as."""
    thinking, non_thinking, either = np.bincount(modes, minlength=len(MODES)).tolist()
    return (thinking + either) / max(thinking + non_thinking + 2 * either, 1)


def _numbers(codes: pa.ChunkedArray) -> Ints:
    return codes.to_numpy().astype(np.int64)
