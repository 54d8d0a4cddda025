"""The evaluate stage: its numbers and its page on hand-made verdicts, and the whole of it on a real
engine.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bimode.config.recipe import EvaluateConfig, Recipe
from bimode.evaluation.routing import ItemResult, Outcome
from bimode.modes import Mode
from bimode.records import Completion, Prompt, Sample
from data_curation.demo.charts import bar_chart
from data_curation.demo.digits import digit_strip
from pipelines import evaluate
from pipelines.report import numbers
from pipelines.report.results import read_results, write_results

MODE_FIELDS = {"accuracy", "accuracy_ci95", "tokens_mean", "tokens_p95", "think_rate"}
ROUTING_FIELDS = {
    "gap_recovery",
    "saving_recovery",
    "h_acc",
    "tokens_vs_thinking",
    "nauc",
    "qnc",
    "baselines",
}
ALL_MODES = {mode.value for mode in Mode}


def samples(each: int) -> list[Sample]:
    """`each` strips and as many charts, by id, all levels alike."""
    made = [
        family(i, "eval", 0, (1.0, 1.0, 1.0))
        for family in (digit_strip, bar_chart)
        for i in range(each)
    ]
    return sorted(made, key=lambda s: s.id)


def prompts_of(made: list[Sample]) -> list[Prompt]:
    return [
        Prompt(s.id, s.question, s.images, s.answer, s.verifier, s.verifier_args, s.task, s.level)
        for s in made
    ]


def verdicts(made: list[Sample], thinks_on: tuple[str, ...]) -> list[ItemResult]:
    """Thinking is always right at 20 tokens, direct on easy items only at 5; auto thinks on the
    levels given.
    """
    items = []
    for s in made:
        thinking = Outcome(True, 20, True, f"\n{s.trace}\n</think>\n\n{s.answer}")
        direct = Outcome(
            s.level == "easy",
            5,
            False,
            "\n\n</think>\n\n" + (s.answer if s.level == "easy" else "23"),
        )
        auto = thinking if s.level in thinks_on else direct
        greedy = {Mode.NON_THINKING: direct, Mode.AUTO: auto, Mode.THINKING: thinking}
        scored = {Mode.THINKING: (thinking,) * 8, Mode.NON_THINKING: (direct,) * 8}
        items.append(ItemResult(s.id, s.task, s.level, s.question, greedy, scored))
    return items


def made_report(results: dict[str, list[ItemResult]]) -> dict[str, Any]:
    return numbers.report(
        results,
        rounds=200,
        seed=0,
        max_tokens=40,
        data={"digest": "d", "n": len(next(iter(results.values())))},
        sampling={"temperature": 0.0},
        versions={"python": "3.11"},
    )


def check_schema(report: dict[str, Any]) -> None:
    """The fields of docs/formats.md, and JSON without NaN."""
    json.dumps(report, allow_nan=False)
    assert set(report) == {"models", "gain", "data", "sampling", "versions"}
    assert {"digest", "n"} <= set(report["data"])
    for model in report["models"].values():
        assert set(model) == {"benchmarks", "overall", "routing"}
        groups = [model["overall"]]
        for bench in model["benchmarks"].values():
            assert set(bench) == {"n", "modes", "by_difficulty"}
            assert set(bench["by_difficulty"]) <= {"easy", "mid", "hard"}
            groups += [bench["modes"], *bench["by_difficulty"].values()]
        for group in groups:
            for found in group.values():
                assert set(found) == MODE_FIELDS
                low, high = found["accuracy_ci95"]
                assert 0 <= low <= found["accuracy"] <= high <= 1
        if model["routing"] is not None:
            assert set(model["routing"]) >= ROUTING_FIELDS
            assert set(model["routing"]["baselines"]) == {
                "random_same_rate",
                "question_only",
                "oracle",
            }


def test_a_perfect_router_reports_perfect_recovery_and_a_gain_over_never_thinking() -> None:
    made = samples(30)
    report = made_report({"anneal": verdicts(made, ()), "bpo": verdicts(made, ("mid", "hard"))})
    check_schema(report)
    routing = report["models"]["bpo"]["routing"]
    assert routing["gap_recovery"] == routing["saving_recovery"] == routing["h_acc"] == 1.0
    assert routing["baselines"]["oracle"] == 1.0
    assert routing["baselines"]["random_same_rate"] < 0.95
    assert report["models"]["anneal"]["routing"]["gap_recovery"] == 0.0
    gain = report["gain"]["bpo_over_anneal"]
    assert gain["gap_recovery"] == [
        1.0,
        1.0,
        1.0,
    ], "paired: every resample of the same items gives the same difference"
    difference, low, high = gain["accuracy_auto"]
    assert 0 < low < difference < high < 1


def test_routing_is_null_where_thinking_gains_nothing_or_a_mode_was_left_out() -> None:
    easy = [s for s in samples(30) if s.level == "easy"]
    routing = made_report({"bpo": verdicts(easy, ())})["models"]["bpo"]["routing"]
    assert routing["gap_recovery"] is None
    assert routing["gap_recovery_ci95"] is None
    assert routing["saving_recovery"] == 1.0
    two = [
        ItemResult(
            i.id,
            i.task,
            i.level,
            i.question,
            {m: o for m, o in i.greedy.items() if m is not Mode.AUTO},
        )
        for i in verdicts(easy, ())
    ]
    report = made_report({"anneal": two, "bpo": two})
    check_schema(report)
    assert report["models"]["bpo"]["routing"] is None
    assert report["gain"] == {}


def test_a_paired_gain_refuses_other_items() -> None:
    made = samples(4)
    with pytest.raises(ValueError, match="same items"):
        numbers.gain(verdicts(made, ()), verdicts(made[::-1], ()), rounds=10, seed=0)


def test_results_survive_the_disk(tmp_path: Path) -> None:
    items = verdicts(samples(3), ("hard",))
    write_results(tmp_path / "bpo.jsonl", items)
    assert read_results(tmp_path / "bpo.jsonl") == items
    odd = replace(
        items[0], question="one\u2028two\x85three\n"
    )  # lines to `str.splitlines`, not to JSON
    write_results(tmp_path / "odd.jsonl", [odd, items[1]])
    assert read_results(tmp_path / "odd.jsonl") == [odd, items[1]]


def test_h_acc_items_are_sampled_in_both_forced_modes_and_left_out_on_request() -> None:
    prompts = prompts_of(samples(5))
    requests = evaluate.make_requests(
        prompts, EvaluateConfig(h_acc_items=4, h_acc_samples=8), seed=1
    )
    scored = [r for r in requests if r.temperature > 0]
    assert len(requests) == 3 * 10 + 2 * 4
    assert {r.mode for r in scored} == {Mode.THINKING, Mode.NON_THINKING}
    assert all(r.n == 8 for r in scored)
    assert len(evaluate.make_requests(prompts, EvaluateConfig(h_acc_samples=0), seed=1)) == 30
    assert len(evaluate.make_requests(prompts, EvaluateConfig(modes=("auto",)), seed=1)) == 10


def completion(prompt: Prompt, text: str, *, finished: bool) -> Completion:
    return Completion(
        prompt.id, Mode.AUTO, (1,), (2, 3, 4), 0, (0.0,) * 3, (0,) * 3, text, finished, "rollout-0"
    )


def test_a_response_that_was_cut_off_is_wrong_even_if_it_says_the_answer() -> None:
    prompt, *_ = prompts_of(samples(1))
    text = f"\n\n</think>\n\n{prompt.answer}"
    assert evaluate.judge(prompt, completion(prompt, text, finished=True)).correct
    assert not evaluate.judge(prompt, completion(prompt, text, finished=False)).correct
    thought = evaluate.judge(
        prompt, completion(prompt, f"\nlook\n</think>\n\n{prompt.answer}", finished=True)
    )
    assert thought == Outcome(True, 3, True, f"\nlook\n</think>\n\n{prompt.answer}")


def test_how_long_an_engine_is_waited_for_changes_no_number() -> None:
    patient = Recipe.of({"name": "t", "evaluate": {"worker_timeout_s": 7.0, "workers": 5}})
    assert evaluate.config(patient) == evaluate.config(Recipe.of({"name": "t"}))


def test_verdicts_of_other_code_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    recipe = Recipe.of({"name": "x"})
    kept = evaluate.verdict_file(recipe, tmp_path, tmp_path / "model", "data")
    assert kept == evaluate.verdict_file(recipe, tmp_path, tmp_path / "model", "data")
    monkeypatch.setattr("bimode.grading.verify.code_digest", lambda: "another verifier")
    assert evaluate.verdict_file(recipe, tmp_path, tmp_path / "model", "data") != kept
