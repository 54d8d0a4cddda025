"""Written sums: answers by hand, known words only, and no question in two splits."""

from __future__ import annotations

import json

import pytest

from bimode.modes import Mode, parse_response, render_response
from bimode.renderer import Renderer
from data_curation.demo import sums
from data_curation.demo.sums import LEVELS, SPLITS, split_of, written_sum
from tests.architecture.test_tree import REPO

EVEN = (1.0, 1.0, 1.0)


def test_equal_arguments_give_equal_samples_and_other_seeds_others() -> None:
    assert written_sum(3, "train", 0, EVEN) == written_sum(3, "train", 0, EVEN)
    assert written_sum(3, "train", 0, EVEN).question != written_sum(3, "train", 1, EVEN).question


def test_a_sum_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = ([17, 4, 5], ["+", "x"], "17 + 4 x 5")
    monkeypatch.setattr(sums, "_draw", lambda *_: sampled)
    monkeypatch.setattr(sums, "split_of", lambda _: "train")
    sample = written_sum(0, "train", 0, EVEN)
    assert sample.answer == str((17 + 4) * 5 % 23) == "13"
    assert sample.trace == "look : 3 terms : 17 + 4 x 5 ; then 17 + 4 > 21 x 5 > 13 ; so 13"
    assert "17 + 4 x 5 from left to right" in sample.question


@pytest.mark.parametrize("split", sorted(set(SPLITS)))
def test_every_question_belongs_to_its_split_alone(split: str) -> None:
    samples = [written_sum(i, split, 0, EVEN) for i in range(200)]
    assert {s.level for s in samples} == set(LEVELS)
    assert {split_of(s.question) for s in samples} == {split}
    assert len({s.question for s in samples}) > 190  # what curation would drop as repeated is rare
    for s in samples:
        assert json.loads(s.difficulty)["operations"] in LEVELS[s.level][0]
        operators = set(s.source_refs[0].removeprefix("sums/").split()[1::2])
        assert operators <= set(LEVELS[s.level][1])


def test_the_tiny_model_knows_every_word() -> None:
    renderer = Renderer(REPO / "assets" / "tiny-base")
    unknown = renderer.tokenizer.unk_token_id
    for i in range(100):
        sample = written_sum(i, "eval", 0, EVEN)
        response = render_response(Mode.THINKING, sample.trace, sample.answer)
        assert unknown not in renderer.encode_prompt(
            sample.question, ()
        ) + renderer.encode_response(response)
        assert parse_response(response.removeprefix("<think>")).is_thinking


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("level", range(3))
def test_a_blind_answer_is_right_about_as_often_as_stated(level: int, split: str) -> None:
    weights = (float(level == 0), float(level == 1), float(level == 2))
    samples = [written_sum(i, split, 0, weights) for i in range(1500)]
    answers = [s.answer for s in samples]
    best = max(answers.count(a) for a in set(answers)) / len(answers)
    assert samples[0].guess_rate == pytest.approx(best, abs=0.03) and samples[0].guess_rate < 0.15


def test_a_chain_is_held_out_by_its_expression_and_one_step_by_the_numbers_in_front() -> None:
    def ask(aside: str, expression: str) -> str:
        return (
            f"strip {aside} ; compute {expression} from left to right ; what is the remainder by"
            " 23 ?"
        )

    asides, sums_of_one, chains = (
        ("1 2 3 4 5", "9 9 9 1 0", "0 0 1 7 3"),
        ("4 x 7", "2 + 3"),
        ("4 x 7 + 1 - 2", "8 x 8 x 8 + 1"),
    )
    for chain in chains:
        assert len({split_of(ask(aside, chain)) for aside in asides}) == 1
    for aside in asides:
        assert len({split_of(ask(aside, expression)) for expression in sums_of_one}) == 1
    assert len({split_of(ask(f"{k} 0 0 0 0", "4 x 7")) for k in range(10)}) > 1
    assert len({split_of(ask(asides[0], f"{k} x 7 + 1 - 2")) for k in range(1, 23)}) > 1
