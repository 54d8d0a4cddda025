"""The mix: shares that are asked for are had to a row, shortages are said, and the choice depends
on seed and ids alone.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimode.config.mix import MixConfig
from bimode.errors import StarvedError
from data_curation.formats import share_of
from data_curation.mix import MODES, Mixed, apportion, mix, split_modes

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("domain", pa.string()),
        ("mode", pa.string()),
    ]
)
# arXiv 2508.21113, Table 1, in thousands: rows that do not reason and rows that do
TABLE_1 = {
    "general": (1351, 1366),
    "math": (1908, 1821),
    "code": (643, 161),
    "chart": (1351, 1089),
    "ocr": (1367, 225),
    "grounding": (281, 149),
    "caption": (1167, 134),
    "knowledge": (928, 360),
    "text": (1875, 191),
}


def rows_of(
    topic: str, thinking: int = 0, direct: int = 0, either: int = 0
) -> list[dict[str, Any]]:
    modes = [
        mode
        for mode, count in zip(MODES, (thinking, direct, either), strict=True)
        for _ in range(count)
    ]
    return [
        {"id": f"{topic}-{mode}-{n}", "task": topic, "domain": "d", "mode": mode}
        for n, mode in enumerate(modes)
    ]


def table(*groups: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([row for group in groups for row in group], schema=SCHEMA)


def ids(found: pa.Table, topic: str = "") -> list[str]:
    return [name for name in found["id"].to_pylist() if name.startswith(topic)]


def taken(mixed: Mixed) -> dict[str, int]:
    return {count.topic: count.taken for count in mixed.topics}


def test_shares_by_hand() -> None:
    """10 rows at 0.55, 0.25 and the rest 0.2: 5.5, 2.5 and 2; of the equal remainders the first
    gets the row.
    """
    rows = table(
        rows_of("a", direct=20),
        rows_of("b", direct=20),
        rows_of("c", direct=9),
        rows_of("d", direct=9),
    )
    mixed = mix(rows, MixConfig(rows=10, topics={"a": 0.55, "b": 0.25}), seed=0)
    assert taken(mixed) == {"a": 6, "b": 2, "": 2}
    assert mixed.lines == () and mixed.kept.num_rows == 10
    assert [count.available for count in mixed.topics] == [20, 20, 18]


def test_the_scarcest_topic_decides_how_many_rows_there_are() -> None:
    """6 of `a` are a fifth of 30."""
    rows = table(rows_of("a", direct=6), rows_of("b", direct=500))
    assert taken(mix(rows, MixConfig(topics={"a": 0.2}), seed=0)) == {"a": 6, "": 24}


def test_a_mode_can_be_the_scarcest() -> None:
    """5 thinking rows are half of 10, whatever there is of direct ones."""
    mixed = mix(
        table(rows_of("a", thinking=5, direct=500)),
        MixConfig(topics={"a": 1.0}, reasoning=0.5),
        seed=0,
    )
    assert taken(mixed) == {"a": 10, "": 0} and mixed.topics[0].reasoning == 0.5


def test_what_is_not_there_is_said_and_not_replaced() -> None:
    rows = table(rows_of("a", thinking=3, direct=50), rows_of("b", direct=50))
    mixed = mix(rows, MixConfig(rows=40, topics={"a": 0.5}, reasoning_by_topic={"a": 0.25}), seed=0)
    assert taken(mixed) == {"a": 3 + 15, "": 20}
    assert mixed.lines == (
        "curate.mix: topic a wants 5 thinking for 20 questions and has 3: 2 fewer are taken",
    )
    assert (mixed.topics[0].wanted, mixed.topics[0].taken, mixed.topics[0].available) == (
        20,
        18,
        53,
    )


def test_a_topic_without_rows_starves_a_mix_of_the_scarcest_and_shortens_one_of_given_size() -> (
    None
):
    rows = table(rows_of("b", direct=50))
    with pytest.raises(StarvedError, match=r"topic a .*0 questions.* allows no rows"):
        mix(rows, MixConfig(topics={"a": 0.1}), seed=0)
    mixed = mix(rows, MixConfig(rows=10, topics={"a": 0.1}), seed=0)
    assert taken(mixed) == {"a": 0, "": 9} and len(mixed.lines) == 1


def test_a_share_of_zero_and_shares_that_add_to_one_leave_the_rest_out() -> None:
    rows = table(rows_of("a", direct=5), rows_of("b", direct=5), rows_of("c", direct=5))
    mixed = mix(rows, MixConfig(topics={"a": 0.5, "b": 0.5, "c": 0.0}), seed=0)
    assert taken(mixed) == {"a": 5, "b": 5, "c": 0, "": 0}
    assert set(mixed.left["detail"].to_pylist()) == {"beyond 0 of topic c"}


def test_the_default_takes_everything_and_shuffles_by_the_seed() -> None:
    rows = table(rows_of("a", thinking=9, direct=9, either=9), rows_of("b", direct=9))
    one, other = mix(rows, MixConfig(), seed=1), mix(rows, MixConfig(), seed=2)
    assert (
        sorted(ids(one.kept)) == sorted(ids(other.kept)) == sorted(ids(rows))
        and one.left.num_rows == 0
    )
    assert ids(one.kept) != ids(other.kept) != ids(rows)


@pytest.mark.parametrize(
    ("n", "sizes", "share", "split"),
    [
        (10, (50, 50, 0), 0.3, (3, 7, 0)),
        (
            10,
            (50, 50, 100),
            0.5,
            (2, 3, 5),
        ),  # half of 10 are `either`: (2 + 5) / (10 + 5), as near to a half as 15 rows come
        (
            10,
            (0, 50, 50),
            0.5,
            (0, 0, 10),
        ),  # without thinking rows, a half is had of `either` alone
        (9, (50, 50, 50), 1.0, (9, 0, 0)),  # `either` brings direct rows
        (9, (50, 50, 50), 0.0, (0, 9, 0)),
        (
            12,
            (2, 50, 50),
            0.25,
            (0, 8, 4),
        ),  # a = 3 - 0.75 c, so c is 4 at most, though half of the topic is `either`
        (
            12,
            (2, 50, 5),
            0.25,
            (2, 8, 2),
        ),  # and 4/3 at least, as there are two thinking rows: (2 + 2) / (12 + 2)
    ],
)
def test_modes_by_hand(
    n: int, sizes: tuple[int, int, int], share: float, split: tuple[int, int, int]
) -> None:
    assert split_modes(n, sizes, share) == split


def test_paired_questions_count_as_both_formats() -> None:
    """A tag does not decide how a paired question is exported."""
    rows = table(rows_of("a", direct=200))
    paired = sum(share_of(name) < 0.5 for name in ids(rows))
    assert 0 < paired < 200
    mixed = mix(rows, MixConfig(), seed=0, paired_share=0.5)
    assert mixed.topics[0].reasoning == paired / (200 + paired)
    first = mix(rows, MixConfig(rows=100), seed=0, paired_share=0.5)
    assert (
        25 <= sum(share_of(name) < 0.5 for name in ids(first.kept)) <= 75
    )  # the queue is not that of the pairs


def test_further_columns_are_passed_on() -> None:
    rows = table(rows_of("a", direct=4)).append_column("row", pa.array([7, 8, 9, 10]))
    mixed = mix(rows, MixConfig(rows=3), seed=0)
    assert sorted(mixed.kept["row"].to_pylist() + mixed.left["row"].to_pylist()) == [7, 8, 9, 10]


def test_topics_can_be_domains() -> None:
    rows = rows_of("a", direct=6)
    for row in rows[:2]:
        row["domain"] = "chart"
    assert taken(mix(table(rows), MixConfig(by="domain", topics={"chart": 0.5}), seed=0)) == {
        "chart": 2,
        "": 2,
    }


def test_table_1_of_r4b_comes_out() -> None:
    """Topic and reasoning shares of the paper give the paper's total: 33.6 % of all rows reason."""
    total = sum(map(sum, TABLE_1.values()))
    rows = table(
        *(
            rows_of(topic, thinking=reason, direct=plain)
            for topic, (plain, reason) in TABLE_1.items()
        )
    )
    config = MixConfig(
        rows=1000,
        topics={topic: sum(parts) / total for topic, parts in TABLE_1.items()},
        reasoning_by_topic={topic: parts[1] / sum(parts) for topic, parts in TABLE_1.items()},
    )
    mixed = mix(rows, config, seed=0)
    assert mixed.kept.num_rows == 1000 and mixed.lines == ()
    assert sum(mode == "thinking" for mode in mixed.kept["mode"].to_pylist()) == pytest.approx(
        336, abs=3
    )
    assert taken(mixed)["chart"] == 149 and taken(mixed)[""] == 0


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"topics": {"a": 0.7, "b": 0.4}}, "add to 1.1"),
        ({"topics": {"a": 0.5}, "reasoning_by_topic": {"b": 0.5}}, "names b"),
        ({"topics": {"": 0.5}}, "has a name"),
        ({"rows": -1}, "greater than or equal to 0"),
    ],
)
def test_an_impossible_mix_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MixConfig(**keys)


SIZES = st.tuples(*[st.integers(0, 40)] * 3)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 1000), min_size=1, max_size=12))
def test_apportioned_rows_add_up_and_are_within_one(total: int, weights: list[int]) -> None:
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    counts = apportion(total, [weight / sum(weights) for weight in weights])
    assert sum(counts) == total and all(
        abs(count - share) < 1 + Fraction(1, 10**6)
        for count, share in zip(counts, exact, strict=True)
    )


@given(st.integers(1, 60), SIZES, st.floats(0, 1))
def test_modes_add_up_and_are_as_near_as_whole_rows_come(
    n: int, sizes: tuple[int, int, int], share: float
) -> None:
    a, b, c = split_modes(n, sizes, share)
    assert a + b + c == n and min(a, b, c) >= 0 and c <= sizes[2]
    assert abs((a + c) - share * (n + c)) <= 0.5 + 1e-6


@given(st.integers(1, 40), SIZES, st.integers(0, 20).map(lambda n: n / 20))
def test_a_split_that_can_be_had_is_found(
    n: int, sizes: tuple[int, int, int], share: float
) -> None:
    """Against all ways of taking n rows: if one of them has the share exactly, no queue is asked
    for more than it has.
    """
    exact = Fraction(share).limit_denominator(20)
    ways = (
        (a, c)
        for c in range(min(n, sizes[2]) + 1)
        for a in range(min(n - c, sizes[0]) + 1)
        if n - a - c <= sizes[1]
    )
    if any(a + c == exact * (n + c) for a, c in ways):
        assert all(
            wanted <= size for wanted, size in zip(split_modes(n, sizes, share), sizes, strict=True)
        )


@settings(max_examples=30)
@given(
    st.dictionaries(st.sampled_from("abcd"), SIZES, min_size=1),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 33).map(lambda n: n / 100)),
    st.none() | st.integers(0, 10).map(lambda n: n / 10),
    st.integers(1, 80),
    st.integers(0, 3),
)
def test_every_mix_keeps_its_promises(
    sizes: Any, topics: Any, reasoning: Any, total: int, seed: int
) -> None:
    """In = kept + left; the order of the input does not matter; each topic has what it wants to a
    row, or a line says why not.
    """
    rows = [row for topic, modes in sizes.items() for row in rows_of(topic, *modes)]
    config = MixConfig(rows=total, topics=topics, reasoning=reasoning)
    mixed = mix(table(rows), config, seed)
    assert sorted(ids(mixed.kept) + ids(mixed.left)) == sorted(row["id"] for row in rows)
    assert mix(table(rows[::-1]), config, seed).kept == mixed.kept
    assert sum(count.wanted for count in mixed.topics) == total
    for count in mixed.topics:
        share = topics.get(count.topic, 1 - sum(topics.values()))
        assert abs(count.wanted - total * share) < 1 + 1e-6 and count.taken <= min(
            count.wanted, count.available
        )
        if count.taken == count.wanted and reasoning is not None and count.taken:
            assert abs(count.reasoning - reasoning) * count.taken <= 1
    assert bool(mixed.lines) == any(count.taken < count.wanted for count in mixed.topics)


@settings(max_examples=25)
@given(SIZES, SIZES, st.none() | st.integers(0, 10).map(lambda n: n / 10), st.integers(1, 60))
def test_rows_of_another_topic_do_not_change_the_choice(
    own: Any, more: Any, reasoning: Any, total: int
) -> None:
    config = MixConfig(rows=total, topics={"a": 0.5}, reasoning=reasoning)
    before = mix(table(rows_of("a", *own), rows_of("b", 3, 3, 3)), config, seed=5)
    after = mix(
        table(rows_of("a", *own), rows_of("b", 3, 3, 3), rows_of("c", *more)), config, seed=5
    )
    assert ids(before.kept, "a") == ids(after.kept, "a")


@given(st.integers(1, 30), st.integers(0, 30))
@settings(max_examples=25)
def test_more_rows_are_the_same_rows_and_more(few: int, more: int) -> None:
    rows = table(rows_of("a", direct=60))
    small, large = (ids(mix(rows, MixConfig(rows=n), seed=3).kept) for n in (few, few + more))
    assert large[:few] == small
