"""Which prompts a step draws, and which ones stand in for those that are dropped."""

from __future__ import annotations

from itertools import islice

from bimode.order import batch_of, stream_of

ITEMS = list("abcdefghij")


def test_an_epoch_is_every_item_once() -> None:
    drawn = [item for step in range(5) for item in batch_of(ITEMS, step, 4, seed=3)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == ITEMS


def test_a_stream_begins_with_the_batch_and_goes_on_with_the_others() -> None:
    """Replacements are fresh: each other item once before any comes again, and none of the batch."""
    for step in range(4):
        drawn = list(islice(stream_of(ITEMS, step, 4, seed=3), 16))
        batch = batch_of(ITEMS, step, 4, seed=3)
        assert drawn[:4] == batch
        assert sorted(drawn[4:10]) == sorted(drawn[10:]) == sorted(set(ITEMS) - set(batch))


def test_a_stream_depends_on_seed_and_step_alone() -> None:
    def drawn(step: int, seed: int) -> list[str]:
        return list(islice(stream_of(ITEMS * 3, step, 4, seed), 4, 12))

    assert drawn(1, 3) == drawn(1, 3)
    assert len({tuple(drawn(step, seed)) for step in range(4) for seed in range(4)}) == 16


def test_a_batch_of_everything_is_replaced_by_itself() -> None:
    assert sorted(islice(stream_of(ITEMS, 0, 10, seed=0), 10, 20)) == ITEMS
