"""The text family: reasoning that a reader can check, levels by the generator's knob, splits that
share no puzzle.
"""

from __future__ import annotations

import json
import re
import sys

import pytest

from bimode.config.curate import SourceConfig
from bimode.errors import ConfigError
from bimode.grading.verify import is_correct
from bimode.modes import Mode, render_response
from bimode.storage.dataset import sample_row
from data_curation.checks.validate import check_row
from data_curation.demo import Family, family_of
from data_curation.demo.text import TASKS, chain_sum_trace, leg_counting_trace

EVEN = (1.0, 1.0, 1.0)


def family(*tasks: str) -> Family:
    return family_of(SourceConfig(family="reasoning_gym", tasks=tasks))


def test_traces_by_hand() -> None:
    assert chain_sum_trace({"expression": "12 + 35 - 14"}) == "12 + 35 > 47 ; - 14 > 33 ; so 33"
    legs = leg_counting_trace({"animals": {"cat": 11, "leech": 8}})
    assert legs == "cat 11 x 4 > 44 ; leech 8 x 0 > 0 ; then 44 + 0 > 44 ; so 44"


@pytest.mark.parametrize("task", sorted(TASKS))
def test_samples_are_sound_and_every_step_of_the_trace_holds(task: str) -> None:
    for index in range(12):
        sample = family(task)(index, "train", 0, EVEN)
        assert sample == family(task)(index, "train", 0, EVEN)
        assert check_row(sample_row(sample, "train")) == ("", "")
        response = render_response(Mode.THINKING, sample.trace, sample.answer)
        assert is_correct(response, sample.answer, sample.verifier, sample.verifier_args)
        assert sample.trace.endswith(f"so {sample.answer}")
        for a, b, product in re.findall(r"(\d+) x (\d+) > (\d+)", sample.trace):
            assert int(a) * int(b) == int(product)
        knob = json.loads(sample.difficulty)[TASKS[task].knob]
        assert knob in TASKS[task].levels[sample.level] and 0.0 < sample.guess_rate < 0.2


def test_weights_choose_the_level_and_tasks_take_turns() -> None:
    draw = family("chain_sum", "leg_counting")
    samples = [draw(i, "train", 0, (0.0, 0.0, 1.0)) for i in range(4)]
    assert [s.task for s in samples] == ["chain_sum", "leg_counting"] * 2
    assert {s.level for s in samples} == {"hard"}


def test_splits_and_seeds_share_no_puzzle() -> None:
    refs = [
        family("chain_sum")(i, split, seed, EVEN).source_refs
        for split in ("base", "train", "rl", "eval")
        for seed in (0, 1)
        for i in range(10)
    ]
    assert len(set(refs)) == len(refs)


def test_a_task_without_an_honest_trace_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="game_of_life_halting: no honest trace"):
        family("game_of_life_halting")


def test_a_library_that_was_left_out_at_installation_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match="reasoning_gym: needs a C compiler at installation"):
        family("chain_sum")
