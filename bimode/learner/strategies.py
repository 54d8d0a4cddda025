"""Annealing data strategies (R-4B, arXiv 2508.21113, Table 3) as a table, and the order in which a
strategy reads its rows.

A strategy is a sequence of phases; a phase names the formats it draws from and its share of the
steps. Table 3 trains the curriculum on 10.8 M non-reasoning and then 5.5 M reasoning rows, hence
two thirds and one third. `transcribe_then_direct` is R-4B's pre-training in small (dense
transcription first), for making a base model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby, islice

import numpy as np
from numpy.typing import NDArray

from bimode.config.recipe import Order, Strategy
from bimode.errors import StarvedError


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of training on some formats. Example: ``Phase(("thinking",), 1 / 3)``."""

    formats: tuple[str, ...]
    share: float  # of the steps


STRATEGIES: dict[Strategy, tuple[Phase, ...]] = {
    "non_r": (Phase(("non_thinking",), 1.0),),
    "only_r": (Phase(("thinking",), 1.0),),
    "non_r_then_r": (Phase(("non_thinking",), 2 / 3), Phase(("thinking",), 1 / 3)),
    "mixed": (Phase(("non_thinking", "thinking"), 1.0),),
    "transcription_and_direct": (Phase(("transcription", "non_thinking"), 1.0),),
    "transcribe_then_direct": (
        Phase(("transcription",), 0.2),
        Phase(("transcription", "non_thinking"), 0.8),
    ),
}


def formats_of(strategy: Strategy) -> tuple[str, ...]:
    """Return all formats that a strategy draws from, sorted."""
    return tuple(sorted({name for phase in STRATEGIES[strategy] for name in phase.formats}))


def phase_of_steps(strategy: Strategy, steps: int) -> list[int]:
    """Return the phase of each step; non-decreasing, and every phase gets a step if there are
    enough.
    """
    phases = STRATEGIES[strategy]
    ends = np.rint(np.cumsum([phase.share for phase in phases]) * steps).astype(int)
    ends = np.maximum(ends, np.arange(1, len(phases) + 1))
    return [int(np.searchsorted(ends, step, side="right")) for step in range(steps)]


@dataclass(frozen=True, slots=True)
class Place:
    """What a plan reads of a row. Example: ``Place(question="digits-17", format="thinking",
    hardness=0.25)``.
    """

    question: str
    format: str
    hardness: float = 0.5


def hardness(pass_rate_non_thinking: float | None, pass_rate_thinking: float | None) -> float:
    """Return 0 for a question that both modes get right, 1 for one that neither does: the mean
    failure of the modes. Unmeasured is 0.5.

    Ours: R-4B's curriculum is one of formats alone (Table 3).
    """
    rates = [rate for rate in (pass_rate_non_thinking, pass_rate_thinking) if rate is not None]
    return 1 - sum(rates) / len(rates) if rates else 0.5


def plan_steps(
    rows: Sequence[Place],
    strategy: Strategy,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    order: Order = "shuffled",
) -> NDArray[np.int64]:
    """Return the row indices of every step, [steps, batch_size]: shuffled epochs over the questions
    of the step's phase.

    With ``order="easy_first"`` the first epoch of each phase goes by hardness, and is shuffled
    where that is equal.

    Rows of one question lie side by side in `rows`, and are read one after the other: in a step,
    both formats of a question share its prompt and its images (`bimode.learner.packing`). A pure
    function of its arguments, so a resumed run reads the same rows. Raises StarvedError if a phase
    has no rows.
    """
    phase_at = phase_of_steps(strategy, steps)
    plan = np.empty((steps, batch_size), dtype=np.int64)
    for k in sorted(set(phase_at)):
        wanted = STRATEGIES[strategy][k].formats
        places = [i for i, row in enumerate(rows) if row.format in wanted]
        if not places:
            counts = dict(Counter(row.format for row in rows))
            raise StarvedError(
                f"anneal.strategy = {strategy}: phase {k + 1} trains on {' and '.join(wanted)} rows"
                f" and the data has none (rows by format: {counts or 'no rows at all'}); curate"
                " such rows or choose another strategy"
            )
        first = phase_at.index(k)
        last = first + phase_at.count(k)
        questions = [list(group) for _, group in groupby(places, key=lambda i: rows[i].question)]
        ranks = np.array(
            [rows[group[0]].hardness if order == "easy_first" else 0.0 for group in questions]
        )
        read = np.fromiter(
            islice(_epochs(questions, ranks, seed), (last - first) * batch_size), dtype=np.int64
        )
        plan[first:last] = read.reshape(-1, batch_size)
    return plan


def _epochs(
    questions: Sequence[Sequence[int]], ranks_Q: NDArray[np.float64], seed: int
) -> Iterator[int]:
    """Yield rows without end: every epoch shuffles the questions again, the first one within equal
    ranks.
    """
    for epoch in count():
        read = np.random.default_rng([seed, epoch]).permutation(len(questions))
        if epoch == 0:
            read = read[np.argsort(ranks_Q[read], kind="stable")]
        for k in read:
            yield from questions[k]
