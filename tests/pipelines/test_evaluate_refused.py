"""Questions that an engine refuses, or that nobody can judge: wrong, named, and no end of an
evaluation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bimode.config.recipe import EvaluateConfig
from bimode.errors import StarvedError
from bimode.modes import Mode
from bimode.records import GenerationRequest, GenerationResult
from pipelines import evaluate
from pipelines.report import numbers, page
from pipelines.report.results import read_results, write_results
from tests.pipelines.test_evaluate import ALL_MODES, completion, made_report, prompts_of, samples


class Refusing:
    """An evaluator whose engine refuses some questions and answers the others with their own
    answer, in three tokens.
    """

    def __init__(self, *refused: str) -> None:
        self.refused = refused

    def generate(self, requests: list[GenerationRequest], on_done: Any) -> list[GenerationResult]:
        return [self._result(request) for request in requests]

    def _result(self, request: GenerationRequest) -> GenerationResult:
        if request.prompt.id in self.refused:
            return GenerationResult((), "5 images, at most 4")
        right = completion(
            request.prompt, f"\n\n</think>\n\n{request.prompt.answer}", finished=True
        )
        return GenerationResult((right,) * request.n)


def test_a_refused_question_is_wrong_at_no_token_and_named(tmp_path: Path) -> None:
    """One of four: accuracy 3/4, 9 tokens over 4 questions; it made no choice, so h_acc leaves it
    out.
    """
    prompts = prompts_of(samples(2))
    settings = EvaluateConfig(h_acc_items=4, h_acc_samples=2)
    requests = evaluate.make_requests(prompts, settings, seed=0)
    bad: Any = Refusing(prompts[1].id)
    items = evaluate.ask(bad, prompts, requests, lambda _: None)
    assert [item.refused for item in items] == ["", "5 images, at most 4", "", ""]
    overall = numbers.by_mode(items)
    assert {mode["accuracy"] for mode in overall.values()} == {0.75}
    assert {mode["tokens_mean"] for mode in overall.values()} == {9 / 4}
    report = made_report({"bpo": items})
    assert report["models"]["bpo"]["routing"]["h_acc_n"] == 3
    found = evaluate.refused_items({"base": items[:1], "bpo": items})
    assert found == {
        "bpo": {"n": 1, "items": [{"id": prompts[1].id, "reason": "5 images, at most 4"}]}
    }
    write_results(tmp_path / "bpo.jsonl", items)
    assert read_results(tmp_path / "bpo.jsonl") == items
    broken = [
        replace(prompts[1], images=(b"\x89PNG no picture",)) if p is prompts[1] else p
        for p in prompts
    ]
    report["data"]["refused"] = found
    shown = page.render(report, {"bpo": items}, broken, {}, page.Run("demo", {}))
    assert (
        'id="refused"' in shown
        and f"{prompts[1].id}</td>" in shown
        and "5 images, at most 4" in shown
    )
    one = {"bpo": items[:1]}
    assert 'id="refused"' not in page.render(
        made_report(one), one, prompts[:1], {}, page.Run("demo", {})
    )


class Endless(Refusing):
    """Its thinking ends nowhere, so that there is nothing to judge."""

    def _result(self, request: GenerationRequest) -> GenerationResult:
        if request.mode is not Mode.THINKING:
            return super()._result(request)
        return GenerationResult((completion(request.prompt, "\nhmm", finished=False),) * request.n)


def test_a_question_that_no_verifier_can_judge_is_wrong_and_named() -> None:
    """In every mode, though a verifier is only asked where there is an answer."""
    made = prompts_of(samples(1))
    prompts = [replace(made[0], verifier="unheard_of"), made[1]]
    evaluator: Any = Endless()
    items = evaluate.ask(
        evaluator,
        prompts,
        evaluate.make_requests(prompts, EvaluateConfig(), seed=0),
        lambda _: None,
    )
    assert (
        items[0].refused.startswith("its answer cannot be judged: verifier = unheard_of")
        and items[1].refused == ""
    )
    assert {mode.value: o.tokens for mode, o in items[0].greedy.items()} == dict.fromkeys(
        ALL_MODES, 0
    )
    assert items[0].sampled == {} and set(items[1].sampled) == {Mode.THINKING, Mode.NON_THINKING}
    accuracy = {name: mode["accuracy"] for name, mode in numbers.by_mode(items).items()}
    assert accuracy == {"non_thinking": 0.5, "auto": 0.5, "thinking": 0.0}


def test_an_evaluation_whose_every_question_is_refused_ends_in_a_line() -> None:
    prompts = prompts_of(samples(1))
    requests = evaluate.make_requests(prompts, EvaluateConfig(), seed=0)
    nothing: Any = Refusing(*(prompt.id for prompt in prompts))
    line = rf"^every question is refused \(2\); the first was {prompts[0].id}: 5 images, at most 4$"
    with pytest.raises(StarvedError, match=line):
        evaluate.ask(nothing, prompts, requests, lambda _: None)
