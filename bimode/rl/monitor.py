"""Alarms: how a collapsing policy shows in the metrics of its steps.

    choice     Over 5 steps auto mode thinks on at least 90 % of every level (75 % in each step),
               though on some level thinking is not worth it; or answers directly on as many, though
               on some level thinking is. It is worth it where, by the means of these steps, its
               accuracy is more than the margin above that of the direct mode. Where no forced mode
               is drawn (e.g. `grpo`), a mode that is taken everywhere is never compared again, and
               that rings.
    mode       A mode's accuracy, the mean of 5 steps, lies more than 0.2 below its best such mean.
               Levels count alike, however many of their questions were drawn: an unlucky hand of
               hard ones is no collapse.
    decision   The entropy of the token that decides is below 0.01 nats everywhere: the choice is no
               longer explored.
    neither    On some level less than a tenth of the first token's probability is on the two modes'
               own tokens: a response in auto mode begins with something that no forced rollout ever
               shows. A credit that pushes the worse mode's token down, however unlikely that is
               already, ends there (HGPO, docs/auto-thinking.md). The means are over distinct
               responses, so a mode counts for more where its responses vary: where nothing is lost
               they may add to 0.2.
    mismatch   Engine and learner differ by more than `bpo.max_mismatch` about tokens that the
               engine has just drawn: a weight update is incomplete, or one side computes the model
               wrongly. In the first two steps this ends the run.

All thresholds are ours. An alarm is told where it begins, and again only once it has ended.
`decision` also rings over choices that are all made and right.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bimode.modes import Mode
from bimode.rl.metrics import ALL_LEVELS

WINDOW = 5  # steps
# of sampled decisions on each level, mean over the window; greedy decoding makes all of 0.94
SHARE = 0.9
SHARE_OF_A_STEP = 0.75  # of each step: one that still chooses is no collapse
FALL = 0.2  # in accuracy
ENTROPY = 0.01  # nats
MASS = 0.1  # of the first token's probability


@dataclass(frozen=True, slots=True)
class StepView:
    """The metrics of one step that the alarms read. A level may be missing if a step drew no prompt
    of it.
    """

    step: int
    think_rates: Mapping[str, float]  # by level, in auto mode
    accuracies: Mapping[tuple[Mode, str], float]  # by mode and level, `all` included
    decision_entropies: Mapping[tuple[Mode, str], float]  # nats, likewise
    decision_probabilities: Mapping[tuple[Mode, str], float] = field(
        default_factory=dict
    )  # of the mode's own token, likewise
    mismatch: float | None = (
        None  # between engine and learner, k3 in nats a token; None where nothing was compared
    )


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm: when it began, which rule, and the mode it is about."""

    step: int
    kind: Literal["choice", "mode", "decision", "neither", "mismatch"]
    mode: Mode
    says: str


def view_of(line: Mapping[str, Any]) -> StepView:
    """Read a line of bpo/metrics.jsonl (docs/formats.md); what an older line lacks is left
    empty.
    """

    def cells(key: str, name: str) -> dict[tuple[Mode, str], float]:
        table: Mapping[str, Mapping[str, Mapping[str, float]]] = line.get(key, {})
        return {
            (Mode(mode), level): means[name]
            for mode, levels in table.items()
            for level, means in levels.items()
            if name in means
        }

    entropies, probabilities = (
        cells("learner", "decision_entropy"),
        cells("learner", "decision_probability"),
    )
    rates, accuracies = line.get("decision", {}), cells("modes", "accuracy")
    return StepView(line["step"], rates, accuracies, entropies, probabilities, line.get("mismatch"))


class CollapseMonitor:
    """Looks at the steps of a run in their order and remembers what the rules need.

    `margin`: the difference in accuracy above which thinking is worth it at a step, to the alarms
    as to the credit. `max_mismatch`: what engine and learner may differ by, k3 in nats a token.
    """

    def __init__(self, margin: Callable[[int], float], max_mismatch: float = math.inf) -> None:
        self.margin, self.max_mismatch = margin, max_mismatch
        self.recent: deque[StepView] = deque(maxlen=WINDOW)
        self.best: dict[
            tuple[Mode, tuple[str, ...]], float
        ] = {}  # by the levels that the mean is of
        self.active: set[tuple[str, Mode]] = set()

    def see(self, view: StepView) -> list[Alarm]:
        """Return the alarms that begin with this step."""
        self.recent.append(view)
        of_the_window = [*self._choice(view.step), *self._modes(view.step)]
        found = [*of_the_window, *self._decision(view), *self._neither(view), *self._mismatch(view)]
        begun = [alarm for alarm in found if (alarm.kind, alarm.mode) not in self.active]
        self.active = {(alarm.kind, alarm.mode) for alarm in found}
        return begun

    def _choice(self, step: int) -> Iterator[Alarm]:
        gains = self._gains()
        for mode in (Mode.THINKING, Mode.NON_THINKING) if len(self.recent) == WINDOW else ():
            if not self._only(mode):
                continue
            does = "thinks" if mode is Mode.THINKING else "answers directly"
            if not gains:
                yield Alarm(
                    step,
                    "choice",
                    mode,
                    f"auto mode {does} on every level, and nothing is drawn to compare it with",
                )
                continue
            worst = (
                min if mode is Mode.THINKING else max
            )  # the level on which the other mode has most to say for it
            level = worst(gains, key=lambda name: gains[name])
            if (gains[level] > self.margin(step)) is (mode is Mode.NON_THINKING):
                where = "" if level == ALL_LEVELS else f"on {level} "
                gain = f"{where}thinking is right more often by {gains[level]:+.2f}"
                yield Alarm(step, "choice", mode, f"auto mode {does} on every level, though {gain}")

    def _gains(self) -> dict[str, float]:
        """Return, by level, how much more accurate thinking is than non-thinking, over the recent
        steps.
        """
        gains = {}
        for level in sorted({level for view in self.recent for level in view.think_rates}):
            thinking, direct = (
                self._mean(Mode.THINKING, level),
                self._mean(Mode.NON_THINKING, level),
            )
            if thinking is not None and direct is not None:
                gains[level] = thinking - direct
        return gains

    def _only(self, mode: Mode) -> bool:
        """Whether auto mode took `mode`, and hardly anything else, on every level of the recent
        steps.
        """
        by_level: dict[str, list[float]] = {}
        for view in self.recent:
            for level, rate in view.think_rates.items():
                by_level.setdefault(level, []).append(rate if mode is Mode.THINKING else 1.0 - rate)
        return bool(by_level) and all(
            sum(shares) / len(shares) >= SHARE and min(shares) >= SHARE_OF_A_STEP
            for shares in by_level.values()
        )

    def _modes(self, step: int) -> Iterator[Alarm]:
        for mode in Mode if len(self.recent) == WINDOW else ():
            seen = {
                level
                for view in self.recent
                for forced_mode, level in view.accuracies
                if forced_mode is mode
            }
            levels = tuple(sorted(seen - {ALL_LEVELS})) or tuple(seen)
            if not levels:
                continue
            means = [mean for level in levels if (mean := self._mean(mode, level)) is not None]
            mean = sum(means) / len(means)
            best = self.best[mode, levels] = max(mean, self.best.get((mode, levels), 0.0))
            if best - mean > FALL:
                yield Alarm(
                    step,
                    "mode",
                    mode,
                    f"{mode.value} mode has {mean:.2f} right, after {best:.2f} at its best",
                )

    def _decision(self, view: StepView) -> Iterator[Alarm]:
        largest = max(view.decision_entropies.values(), default=ENTROPY)
        if largest < ENTROPY:
            yield Alarm(
                view.step,
                "decision",
                Mode.AUTO,
                f"the decision's entropy is at most {largest:.4f} nats on every level",
            )

    def _neither(self, view: StepView) -> Iterator[Alarm]:
        """Where both modes were drawn; over all questions where none has a level."""
        found = view.decision_probabilities
        both = {
            level
            for _, level in found
            if {(Mode.THINKING, level), (Mode.NON_THINKING, level)} <= found.keys()
        }
        levels = both - {ALL_LEVELS} or both
        masses = {
            level: found[Mode.THINKING, level] + found[Mode.NON_THINKING, level] for level in levels
        }
        level = min(sorted(masses), key=masses.__getitem__, default="")
        if level and masses[level] < MASS:
            where = "" if level == ALL_LEVELS else f"on {level} "
            says = f"{where}only {masses[level]:.2f} of the first token's probability is on a mode"
            yield Alarm(view.step, "neither", Mode.AUTO, says)

    def _mismatch(self, view: StepView) -> Iterator[Alarm]:
        if view.mismatch is None:
            if ("mismatch", Mode.AUTO) in self.active:  # as long as nothing says that it has ended
                yield Alarm(view.step, "mismatch", Mode.AUTO, "")
        elif not view.mismatch <= self.max_mismatch:
            says = (
                f"engine and learner differ by {view.mismatch:.2g} nats (k3) a token, over"
                " bpo.max_mismatch"
            )
            yield Alarm(view.step, "mismatch", Mode.AUTO, says)

    def _mean(self, mode: Mode, level: str) -> float | None:
        """Return the mean accuracy over the recent steps that drew the level, or None."""
        found = [
            view.accuracies[mode, level] for view in self.recent if (mode, level) in view.accuracies
        ]
        return sum(found) / len(found) if found else None
