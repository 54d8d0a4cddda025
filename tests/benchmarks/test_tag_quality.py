"""Tag quality without its minutes: markings, truths, rules and baselines on attempts counted by
hand.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from benchmarks import tag_quality
from benchmarks.peers.tag_scores import (
    MARKINGS,
    ORACLE,
    RULES,
    TAGGED,
    Item,
    as_choice,
    guess_by_knob,
    guess_by_length,
    guess_majority,
    halves,
    is_right,
    lucky,
    marked,
    pooled,
    score,
    score_all,
    tags_by_rule,
    truth_of,
)
from benchmarks.tag_quality import TRUTH, draw, figure, mark_all
from bimode.config.curate import TagConfig
from data_curation.sampling.cache import Reply, write_replies

CONFIG = TagConfig()
N = TAGGED + TRUTH


def item(
    first: tuple[int, int],
    rest: tuple[int, int],
    guess: float = 0.5,
    name: str = "a",
    **changed: object,
) -> Item:
    """An item with so many right attempts (direct, thinking) among the first 8 and among the other
    64.
    """
    counts = zip(first, rest, strict=True)
    attempts = [
        (True,) * a + (False,) * (TAGGED - a) + (True,) * b + (False,) * (TRUTH - b)
        for a, b in counts
    ]
    values = {"task": "digits", "knob": "1", "length": 10} | changed
    return Item(name, values["task"], values["knob"], values["length"], guess, *attempts)  # type: ignore[arg-type]


def test_a_number_is_marked_as_the_option_that_it_falls_under() -> None:
    """15 leaves 3 by four, option D, and 1 by two, option B; what is no number falls under none."""
    assert as_choice("look : 2 digits </think>\n\n15", 4).endswith("</think>D")
    assert as_choice("</think>14", 4) == "</think>C" and as_choice("</think>15", 2) == "</think>B"
    for text in ("</think>+", "</think>", "15", "</think>1 5", "</think>²"):
        assert as_choice(text, 4) == text
        assert not any(is_right(text, "15", choices) for choices in MARKINGS.values())


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("15", (True, True, True)),
        ("19", (False, True, True)),
        ("17", (False, False, True)),
        ("14", (False, False, False)),
    ],
)
def test_options_forgive_what_the_number_does_not(said: str, right: tuple[bool, ...]) -> None:
    assert (
        tuple(is_right(f"so {said} </think>{said}", "15", choices) for choices in MARKINGS.values())
        == right
    )


def test_a_thought_that_never_ends_is_wrong_under_every_marking() -> None:
    made = marked(
        item((0, 0), (0, 0), 1 / 23),
        2,
        "15",
        ["</think>15", "</think>13"],
        ["look : 15", "</think>14"],
    )
    assert (made.direct, made.think, made.guess_rate) == ((True, True), (False, False), 0.5)


@pytest.mark.parametrize(
    ("rest", "truth"),
    [
        ((56, 0), "non_thinking"),  # (56/64 - 1/2) / (1/2) = 0.75
        ((55, 64), "either"),
        ((48, 64), "either"),  # 0.5 is not below 0.5
        ((47, 64), "thinking"),
        ((47, 47), "either"),  # thinking is no better
    ],
)
def test_the_truth_is_read_off_the_attempts_after_the_first_eight(
    rest: tuple[int, int], truth: str
) -> None:
    """The first 8 would say otherwise."""
    assert truth_of(item((0, 8), rest), CONFIG) == truth_of(item((8, 0), rest), CONFIG) == truth


def test_luck_is_taken_for_knowledge_without_the_correction_only() -> None:
    """7 of 8 at guess rate 1/2: surely not poor if luck is left out, unclear if it counts; 8 of 8
    leaves room for luck too.
    """
    items = [
        item((7, 8), (32, 64)),
        item((8, 8), (64, 64)),
        item((3, 8), (32, 64)),
        item((0, 8), (0, 64)),
    ]
    assert tags_by_rule(items, "corrected", CONFIG) == ["either", "either", "thinking", "thinking"]
    assert tags_by_rule(items, "uncorrected", CONFIG) == [
        "non_thinking",
        "non_thinking",
        "thinking",
        "thinking",
    ]
    assert tags_by_rule(items, "r4b", CONFIG) == [
        "non_thinking",
        "non_thinking",
        "non_thinking",
        "thinking",
    ]


def test_the_truth_of_every_marking_is_the_numbers_unless_its_own_is_asked_for() -> None:
    """A model that says a wrong number of the right class 72 times: as a number poor, by its own
    two choices good.
    """
    items = {
        "number": [item((0, 8), (0, 64), 1 / 23)],
        "4 choices": [item((8, 8), (64, 64), 0.25)],
        "2 choices": [item((8, 8), (64, 64), 0.5)],
    }
    agreements = [
        {
            (s.marking, s.method): s.agreement
            for s in score_all(items, CONFIG, ["thinking"], own_truth)
        }
        for own_truth in (False, True)
    ]
    assert [found["4 choices", "corrected"] for found in agreements] == [0.0, 1.0]
    assert [found["number", "corrected"] for found in agreements] == [1.0, 1.0]
    assert [found["2 choices", "judge"] for found in agreements] == [1.0, 0.0]
    assert lucky(items, "2 choices") == (72, 72) and lucky(items, "number") == (0, 72)


def test_scores_are_those_of_a_table_counted_by_hand() -> None:
    """8 of 10 agree; by chance 0.5 * 0.5 + 0.4 * 0.3 + 0.1 * 0.2 = 0.39, so kappa = 0.41 / 0.61."""
    truth = ["thinking"] * 5 + ["non_thinking"] * 4 + ["either"]
    tags = ["thinking"] * 4 + ["either"] + ["non_thinking"] * 3 + ["thinking", "either"]
    found = score("number", "corrected", truth, tags)
    assert (
        found.right,
        found.n,
        found.clear,
        found.clear_right,
        found.clear_either,
        found.clear_opposite,
    ) == (8, 10, 9, 7, 1, 1)
    assert found.confusion == ((4, 0, 1), (1, 3, 0), (0, 0, 1))
    assert found.kappa == pytest.approx(0.41 / 0.61)
    assert (found.low, found.high) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert isnan(score("number", "majority", ["either"] * 3, ["either"] * 3).kappa)
    assert score("number", "judge", ["thinking", "either"], ["", "either"]).hits == (False, True)


def test_every_item_is_tested_once_and_never_on_itself() -> None:
    (learn, test), other = halves(7)
    assert sorted([*learn, *test]) == list(range(7)) and not set(learn) & set(test)
    assert [list(part) for part in other] == [list(test), list(learn)]


def test_a_baseline_finds_what_tells_the_classes_apart_and_nothing_else() -> None:
    """Lengths tell tasks apart here, the knob all; a knob that the other half lacks says
    nothing.
    """
    truth = ["thinking", "non_thinking"] * 20
    items = [
        item((0, 0), (0, 0), length=40 if word == "thinking" else 10, knob=word) for word in truth
    ]
    assert guess_by_length(items, truth) == truth == guess_by_knob(items, truth)
    alike = [item((0, 0), (0, 0)) for _ in truth]
    assert score("", "", truth, guess_by_length(alike, truth)).agreement <= 0.6
    alone = [item((0, 0), (0, 0), knob=str(at)) for at in range(len(truth))]
    assert set(guess_by_knob(alone, truth)) == {"either"}
    assert guess_majority(["either", "thinking", "either"]) == ["either"] * 3


def test_a_baseline_without_a_clear_item_to_learn_from_still_answers() -> None:
    truth = ["either"] * 4
    assert len(guess_by_length([item((0, 0), (0, 0)) for _ in truth], truth)) == 4


def test_all_markings_of_a_question_are_drawn_together() -> None:
    """One of two questions right under every marking: the bootstrap has two questions, not four
    rows.
    """
    truth = ["thinking", "either"] * 50
    rows = [score(m, "corrected", truth, ["thinking"] * 100) for m in ("number", "2 choices")]
    rows += [score(m, "r4b", truth, ["non_thinking"] * 100) for m in ("number", "2 choices")]
    mean, low, high = pooled(rows, "corrected")
    assert mean == 0.5 and high - low == pytest.approx(2 * 1.96 * 0.05, rel=0.15)
    assert pooled(rows, "corrected", "corrected") == (0.0, 0.0, 0.0)
    assert pooled(rows, "corrected", "r4b") == (mean, low, high)


def test_questions_are_drawn_evenly_and_the_same_each_time() -> None:
    """24 are one of each family, number of operands and noise; four and five operands share a
    place.
    """
    sampled = draw(24, 0)
    assert [sample.images for sample, _ in sampled] == [sample.images for sample, _ in draw(24, 0)]
    kinds = {(sample.task, knob.replace("5", "4")) for sample, knob in sampled}
    assert kinds == {
        (task, f"{operands}{noise}")
        for task in tag_quality.FAMILY_NAMES
        for operands in (1, 2, 3, 4)
        for noise in ("", " noisy")
    }
    assert len({sample.id for sample, _ in sampled}) == 24 and {
        sample.split for sample, _ in sampled
    } == {"eval"}
    assert tag_quality.canvas.LEVELS == {"easy": (1,), "mid": (2,), "hard": (4, 5)}


def test_noise_is_in_the_picture_and_nowhere_else(tmp_path: Path) -> None:
    clean = draw(1, 0)[0][0]
    noisy = tag_quality.add_noise(clean, 0)
    (tmp_path / "a.png").write_bytes(clean.images[0])
    (tmp_path / "b.png").write_bytes(noisy.images[0])
    before, after = (
        np.asarray(Image.open(tmp_path / name), dtype=float) for name in ("a.png", "b.png")
    )
    assert before.shape == after.shape and 4 < np.std(after - before) < 80
    assert (noisy.id, noisy.answer, noisy.question) == (clean.id, clean.answer, clean.question)


def test_the_attempts_of_the_cache_become_items(tmp_path: Path) -> None:
    """In their order, whatever that of the cache; those of another content, another question and
    beyond the number are left.
    """
    [(sample, knob)] = draw(1, 0)
    modes, wrong = ("non_thinking", "thinking"), str((int(sample.answer) + 2) % 23)
    said = [sample.answer if k in (0, 70) else wrong for k in range(N)]
    made = [
        Reply(sample.id, "c", mode, k, 0, "wrong", 1.0, 1, f"</think>{said[k]}", "")
        for mode in modes
        for k in reversed(range(N))
    ]
    others = [
        replace(made[-1], content="old", number=1, text=f"</think>{sample.answer}"),
        replace(made[-1], number=N, text=f"</think>{sample.answer}"),
    ]
    write_replies(tmp_path, made + others)
    chosen = pa.table({"id": [sample.id], "content": ["c"]})
    items = mark_all([(sample, knob)], tmp_path, chosen)
    assert [each.knob for [each] in items.values()] == [knob] * 3
    [number] = items["number"]
    assert (
        [k for k in range(N) if number.think[k]]
        == [0, 70]
        == [k for k in range(N) if number.direct[k]]
    )
    assert [round(each.guess_rate, 4) for [each] in items.values()] == [0.1, 0.25, 0.5]
    with pytest.raises(SystemExit, match="refused attempts"):
        mark_all([(sample, knob)], tmp_path, pa.table({"id": [sample.id], "content": ["new"]}))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--items", "0"), "error: --items = 0: at least one\n"),
        (
            ("--set", "curate.rollouts.nn=3"),
            "error: curate.rollouts.nn = 3: unknown key; did you mean n?\n",
        ),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Before Ray starts."""
    monkeypatch.setattr(sys, "argv", ["tag_quality.py", *words])
    with pytest.raises(SystemExit) as ended:
        tag_quality.main()
    assert ended.value.code == 2 and capfd.readouterr().err == line


def test_the_line_of_json_has_the_best_baseline_that_real_data_has() -> None:
    """The knob knows all here, and is not the peer; a judge would be."""
    items = [item((0, 8), (0, 64), 1 / 23, knob="hard"), item((8, 8), (64, 64), 1 / 23)] * 10
    scores = score_all(dict.fromkeys(MARKINGS, items), CONFIG, None)
    line = json.loads(json.dumps(figure(scores)))
    assert (line["name"], line["goal"], line["ours"], line["peer"], line["ratio"]) == (
        "tag_quality",
        None,
        1.0,
        0.5,
        2.0,
    )
    means = {run["method"]: run["agreement"] for run in line["runs"] if run["marking"] == "all"}
    assert means[ORACLE] == 1.0 and set(RULES) < set(means)
    truth = ["thinking", "non_thinking"] * 10
    assert figure(score_all(dict.fromkeys(MARKINGS, items), CONFIG, truth))["peer"] == 1.0
