"""Free texts: exact Jaccard decides, MinHash only finds what to compare."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from data_curation.dedup.near_texts import (
    MISSED,
    NUM_PERM,
    KeptTexts,
    jaccard,
    num_bands,
    shingles,
)

TEXT = (
    "at the harbour a man unloads twelve crates that hold thirty lemons each and seven of these"
    " turn out to be broken how many good lemons are there when all the crates have been counted by"
    " the clerk"
)


def test_jaccard_by_hand() -> None:
    assert jaccard(shingles("a b c d"), shingles("a b c e")) == 1 / 3  # abc of abc, bcd, bce
    assert jaccard(shingles("A, b: c!"), shingles("a b c")) == 1.0
    assert jaccard(shingles("a b"), shingles("a c")) == 0.0 and jaccard(set(), set()) == 1.0


def test_bands_miss_no_pair_at_the_threshold() -> None:
    for similarity in (0.3, 0.5, 0.8, 0.9, 0.99, 1.0):
        bands = num_bands(similarity)
        rows = NUM_PERM // bands
        assert bands * rows == NUM_PERM and (1 - similarity**rows) ** bands <= MISSED
    assert num_bands(0.8) == 32 and num_bands(0.01) == NUM_PERM


def test_a_small_edit_is_the_same_text_and_a_large_one_is_not() -> None:
    kept = KeptTexts(0.8)
    assert kept.find_or_add(TEXT) == -1
    assert (
        kept.find_or_add(TEXT.replace("unloads", "Unpacks,")) == 0
    )  # 3 of 35 shingles on either side: 32/38 = 0.84
    assert (
        kept.find_or_add(TEXT.replace("unloads", "unpacks").replace("counted", "seen")) == -1
    )  # 29/41 = 0.71
    assert kept.find_or_add("something else altogether") == -1
    assert (
        kept.find_or_add("Something else, altogether!") == 2
    )  # the place among those that are kept


def test_what_must_be_kept_is_kept_though_it_is_the_same() -> None:
    kept = KeptTexts(0.8)
    assert [
        kept.find_or_add(TEXT),
        kept.find_or_add(TEXT, always=True),
        kept.find_or_add(TEXT),
    ] == [-1, -1, 0]


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from("abcde"), min_size=3, max_size=9), max_size=14),
    st.sampled_from([0.5, 0.8, 1.0]),
)
def test_the_first_kept_text_that_is_near_is_found(
    texts: list[list[str]], similarity: float
) -> None:
    """Against comparing everything: of nearly equal sketches none is missed, none is invented."""
    kept, ours = KeptTexts(similarity), list[set[int]]()
    for text in (" ".join(letters) for letters in texts):
        own = shingles(text)
        first = next((at for at, other in enumerate(ours) if jaccard(own, other) >= similarity), -1)
        assert kept.find_or_add(text) == first
        if first < 0:
            ours.append(own)
