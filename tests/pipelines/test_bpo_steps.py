"""A step of BPO with scripted rollouts: which groups are kept, what they are compared with, what
the learner divides by.

The answers are scripted: which groups carry no credit cannot be brought about with a real policy.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bimode.config.rl import BpoConfig
from bimode.errors import StarvedError, VerifierLostError
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, GenerationResult, Prompt, RolloutGroup
from bimode.rl.ledger import Ledger
from bimode.rl.loss import policy_loss
from bimode.rl.metrics import summarize
from bimode.rl.rollout_task import RolloutTask, requests, scored_groups
from bimode.rl.scheduler import Lease, RefusedPrompt, ScoredGroup
from pipelines.bpo_log import RunLog
from pipelines.bpo_steps import credit, open_scheduler, update
from tests.rollouts import completion, config, paired

RIGHT, WRONG = "\n\n</think>\n\n7", "\n\n</think>\n\n8"


@dataclass
class ScriptedGraph:
    """Of each request, the first completions are right: as many as `right` says of the prompt;
    remembers what it was asked.
    """

    right: dict[str, int]
    asked: list[GenerationRequest] = field(default_factory=list)
    divided_by: list[float] = field(default_factory=list)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        self.asked += requests
        return [self._result(request) for request in requests]

    def _result(self, request: GenerationRequest) -> GenerationResult:
        name = request.prompt.id
        if name not in self.right:
            return GenerationResult((), "5 images, at most 4")
        texts = [RIGHT if i < self.right[name] else WRONG for i in range(request.n)]
        return GenerationResult(
            tuple(replace(completion(request.mode, 3, text=text), prompt_id=name) for text in texts)
        )

    @property
    def learner(self) -> Any:
        def forward(samples: Sequence[Any], loss: Any, num_tokens: float) -> dict[str, float]:
            self.divided_by.append(num_tokens)
            return {"loss": 0.0}

        return SimpleNamespace(
            update=forward, optim_step=lambda: SimpleNamespace(grad_norm=1.0, lr=1.0)
        )


class InOrder(RolloutTask):
    """The k-th group is of the k-th prompt."""

    def prompt(self, group_id: int) -> Prompt:
        return self.prompts[group_id]


@dataclass(frozen=True)
class Step:
    """What one step drew."""

    groups: list[RolloutGroup]
    probes: list[Completion]
    dropped: int
    scored: list[ScoredGroup]


def collect(
    graph: ScriptedGraph,
    asked: list[Prompt],
    bpo: BpoConfig,
    references: dict[str, float],
    seed: int = 5,
) -> Step:
    """The batch of step 0 of a run whose data order is `asked`, by one worker without a fault."""
    with tempfile.TemporaryDirectory() as folder:
        task = InOrder(asked, bpo, seed, references)
        scheduler = open_scheduler(task, Ledger(Path(folder)))
        while (batch := scheduler.batch(0)) is None:
            lease = scheduler.grant("w", 0, 0)
            assert lease is not None
            results = graph.generate(task.requests(lease))
            scheduler.deliver(lease, task.score(lease, results))
        return Step(
            [d.group for d in batch],
            [c for d in batch for c in d.probes],
            scheduler.filtered,
            batch,
        )


def prompts(ids: str) -> list[Prompt]:
    return [replace(paired([1], [1]).prompt, id=each) for each in ids]


def test_a_step_without_resampling_takes_what_it_drew() -> None:
    graph = ScriptedGraph({"a": 2, "b": 0, "c": 1})
    scored = collect(graph, prompts("abc"), config("per_mode", prompts_per_step=3), {}, seed=5)
    assert [g.prompt.id for g in scored.groups] == ["a", "b", "c"] and scored.dropped == 0
    assert [g.rewards_G for g in scored.groups] == [(1, 1, 1, 1), (0, 0, 0, 0), (1, 0, 1, 0)]
    assert [c.prompt_id for c in scored.probes] == [
        "a",
        "a",
        "b",
        "b",
        "c",
        "c",
    ], "g probes of the choice a prompt"
    assert all(math.isnan(g.reference_reward) for g in scored.groups)
    assert len({(request.seed, request.mode) for request in graph.asked}) == 9


def test_groups_without_credit_give_way_until_the_batch_is_full() -> None:
    """a and c teach nothing; d and e stand in, e teaches nothing; f fills the last place in the
    last round but one.
    """
    graph = ScriptedGraph({"a": 0, "b": 1, "c": 4, "d": 2, "e": 0, "f": 3, "g": 1})
    wanted = config("dapo", prompts_per_step=3, resample=5, overlong_buffer=0.0)
    scored = collect(graph, prompts("abcdefg"), wanted, {}, seed=5)
    assert [g.prompt.id for g in scored.groups] == ["b", "d", "f"] and scored.dropped == 3
    assert "g" not in {request.prompt.id for request in graph.asked}, (
        "no more was asked than was needed"
    )
    assert len({request.seed for request in graph.asked}) == 6
    assert scored.probes == [], "the rollouts themselves show the choice"


def test_no_more_give_way_than_the_rounds_allow() -> None:
    graph = ScriptedGraph({"a": 0, "b": 1, "c": 4, "d": 0, "e": 0, "f": 0})
    wanted = config("dapo", prompts_per_step=3, resample=1, overlong_buffer=0.0)
    scored = collect(graph, prompts("abcdef"), wanted, {}, seed=5)
    assert [g.prompt.id for g in scored.groups] == ["b", "e", "f"] and scored.dropped == 3


def test_a_group_that_spans_more_versions_than_may_be_is_dropped_and_ends_no_run(
    tmp_path: Path,
) -> None:
    """Credit refuses such a group: it must not be asked whether there is any before the group is
    found to be too old.
    """
    bpo = BpoConfig(prompts_per_step=1, group_size=1, max_staleness=1, resample=1)
    prompt = paired([1], [1]).prompt
    scheduler = open_scheduler(RolloutTask([prompt], bpo, 0, {}), Ledger(tmp_path))

    def answer(lease: Lease | None, first: int, last: int) -> None:
        assert lease is not None
        both = [completion(mode, 3) for mode in (Mode.THINKING, Mode.NON_THINKING)]
        spans = tuple(replace(c, versions_T=(first,) * (c.num_tokens - 1) + (last,)) for c in both)
        scheduler.deliver(
            lease,
            [
                ScoredGroup(group_id, RolloutGroup(prompt, spans, (1.0, 0.0)), ())
                for group_id in lease.group_ids
            ],
        )

    slow = scheduler.grant("slow", 0, 0)
    for version in (0, 1):
        answer(scheduler.grant("a", version, version), version, version)
        scheduler.mark_trained(scheduler.batch(version) or [], version)
    answer(slow, 0, 2)
    assert scheduler.batch(2) is None and (scheduler.stale, scheduler.filtered) == (1, 0)


@pytest.mark.parametrize(
    ("algorithm", "rewards"),
    [
        ("per_mode", [(1, 0, 1, 0), (1, 1, 1, 1), (1, 0, 1, 0)]),
        ("dapo", [(1, 0, 0, 0), (1, 1, 0, 0), (1, 0, 0, 0)]),
    ],
)
def test_the_next_question_replaces_one_that_the_engine_refuses(
    algorithm: str, rewards: list[Any]
) -> None:
    """Where the choice is probed, and where it is drawn: no completion is taken for another
    question's.
    """
    graph = ScriptedGraph({"a": 1, "c": 2, "d": 1})
    wanted = config(algorithm, prompts_per_step=3, overlong_buffer=0.0, resample=0)
    scored = collect(graph, prompts("abcd"), wanted, {}, seed=5)
    assert [g.prompt.id for g in scored.groups] == ["a", "c", "d"]
    assert [g.rewards_G for g in scored.groups] == rewards
    assert all(c.prompt_id == g.prompt.id for g in scored.groups for c in g.completions)
    assert all(c.prompt_id == d.group.prompt.id for d in scored.scored for c in d.probes)


def test_a_question_that_no_verifier_can_judge_costs_itself() -> None:
    """As in a folder that was made elsewhere; a verifier that is lost is another matter, and ends
    the run.
    """
    asked = [(k, prompt) for k, prompt in enumerate(prompts("abc"))]
    asked[1] = (1, replace(asked[1][1], verifier="unheard_of"))
    asked[2] = (2, replace(asked[2][1], verifier="number", verifier_args="{"))
    bpo = config("per_mode", prompts_per_step=3)
    results = ScriptedGraph({"a": 1, "b": 1, "c": 1}).generate(requests(asked, bpo, 0))
    good, unknown, broken = scored_groups(asked, bpo, results, {})
    assert isinstance(good, ScoredGroup) and good.group.rewards_G == (1, 0, 1, 0)
    assert (
        isinstance(unknown, RefusedPrompt)
        and "its answer cannot be judged: verifier = unheard_of" in unknown.reason
    )
    assert isinstance(broken, RefusedPrompt) and broken.group_id == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bimode.rl.rollout_task.correctness", lost)
        with pytest.raises(VerifierLostError):
            scored_groups(asked[:1], bpo, results[:2] + results[6:7], {})


def test_a_question_that_stands_twice_in_the_data_is_one_question(tmp_path: Path) -> None:
    """Else a run whose every question is refused would draw them for ever."""
    bpo = config("per_mode", prompts_per_step=2)
    scheduler = open_scheduler(RolloutTask(prompts("aab"), bpo, 0, {}), Ledger(tmp_path / "ledger"))
    with pytest.raises(StarvedError, match=r"every question is refused \(2\)"):
        for _ in range(9):
            lease = scheduler.grant("w", 0, 0)
            assert lease is not None
            scheduler.deliver(
                lease, [RefusedPrompt(group_id, "5 images") for group_id in lease.group_ids]
            )


def lost(*_: object) -> float:
    raise VerifierLostError("killed")


def test_a_group_that_only_length_tells_apart_stays() -> None:
    """All right, 3 tokens of 4 at most: the direct trigger is a token more, so the price of length
    teaches R-4B's joint group.
    """
    graph = ScriptedGraph({"a": 2, "b": 1})
    wanted = config("bpo", prompts_per_step=1, resample=1, max_tokens=5, overlong_buffer=0.4)
    assert collect(graph, prompts("ab"), wanted, {}, seed=5).dropped == 0
    plain = wanted.model_copy(update={"overlong_buffer": 0.0})
    assert collect(graph, prompts("ab"), plain, {}, seed=5).dropped == 1


def test_probes_are_those_of_the_groups_that_stay() -> None:
    graph = ScriptedGraph({"a": 0, "b": 1})
    wanted = config("bpo", prompts_per_step=1, resample=3)
    scored = collect(graph, prompts("ab"), wanted, {}, seed=5)
    assert [c.prompt_id for c in scored.probes] == ["b", "b"] and scored.dropped == 1


def test_length_is_credited_and_not_logged() -> None:
    """3 tokens of 4, buffer .5: half is taken from each; equal rewards stay equal, accuracy and the
    logged reward stay 1.
    """
    graph = ScriptedGraph({"a": 4})
    wanted = config("dr_grpo", g=1, prompts_per_step=1, max_tokens=4, overlong_buffer=0.5)
    (group,) = collect(graph, prompts("a"), wanted, {}, seed=5).groups
    longer = replace(
        group, completions=(completion(Mode.AUTO, 4, text=RIGHT), group.completions[1])
    )
    assert summarize([longer]).means[(Mode.AUTO, "all")].accuracy == 1.0 and longer.rewards_G == (
        1,
        1,
    )
    batch = credit([longer], wanted, seed=0)
    assert [s.advantages_T[0] for s in batch.samples] == pytest.approx(
        [-0.25, 0.25]
    )  # rewards 0 and .5


def test_the_control_deals_what_would_have_been_credited() -> None:
    """Shuffled after shaping: the price of length teaches no more than the rest."""
    graph = ScriptedGraph({"a": 2, "b": 1})
    wanted = config("dr_grpo", prompts_per_step=2, shuffle_rewards=True)
    groups = collect(graph, prompts("ab"), wanted, {}, seed=5).groups
    dealt, plain = (
        credit(groups, each, 1) for each in (wanted, config("dr_grpo", prompts_per_step=2))
    )
    assert dealt != plain and dealt == credit(groups, wanted, 1)
    weights = [sum(sum(s.loss_mask_T) for s in batch.samples) for batch in (dealt, plain)]
    assert weights[0] == pytest.approx(weights[1]) and dealt.denominator == plain.denominator == 8
    assert (
        len(plain.samples) == 4
    )  # two distinct responses of each question: equal ones are learned from once


def test_the_learner_divides_by_the_batchs_denominator() -> None:
    """Four responses under Dr. GRPO, whatever their weights; four and four decisions of 1/4 under
    CounterRoute.
    """
    graph = ScriptedGraph({"a": 1})
    for name in ("dr_grpo", "counterroute"):
        wanted = config(name, prompts_per_step=1, max_tokens=100).at(0)
        update(
            graph,
            credit(collect(graph, prompts("a"), wanted, {}, 0).groups, wanted, 0),
            policy_loss(0.2, 0.2, 0.0),
        )
    assert graph.divided_by == pytest.approx([4, 5])


def test_a_line_of_metrics_counts_what_was_dropped(tmp_path: Path) -> None:
    graph = ScriptedGraph({"a": 0, "b": 1})
    scored = collect(
        graph, prompts("ab"), config("bpo", prompts_per_step=1, resample=3), {}, seed=5
    )
    RunLog(tmp_path, lambda step: 0.15).step(0, scored.scored, {"dropped": scored.dropped})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["dropped"] == 1
