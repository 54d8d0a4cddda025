"""The data order: every question once an epoch, epochs differ, and a run that goes on draws the
same.
"""

from __future__ import annotations

from bimode.rl.rollout_task import item_of


def test_every_item_once_an_epoch_and_epochs_differ() -> None:
    epochs = [[item_of(10 * epoch + k, 10, seed=3) for k in range(10)] for epoch in range(5)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_the_order_is_a_function_of_ticket_and_seed() -> None:
    forwards = [item_of(k, 7, seed=1) for k in range(40)]
    backwards = [item_of(k, 7, seed=1) for k in reversed(range(40))]
    assert forwards == backwards[::-1] != [item_of(k, 7, seed=2) for k in range(40)]
