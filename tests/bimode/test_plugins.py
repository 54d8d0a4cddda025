"""Own code that a recipe names: a mistake in it is one line, before anything starts or with its
place at run time; and a row names none that the recipe does not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bimode import Completion, ConfigError, Mode, Recipe, RolloutGroup, plugins
from bimode.config.curate import CurateConfig, SourceConfig
from bimode.errors import RefusedPromptError
from bimode.grading.verify import score
from bimode.inputs.row_check import check_answer
from bimode.records import Prompt
from bimode.rl.credit import shaped
from data_curation.demo import family_of
from data_curation.sources.layouts import read_record

FILE = '{ path = "x.jsonl", columns = { question = "q", answer = "a" }, '
KEYS = {
    "bpo.algorithm": ('bpo.algorithm="{}"', "examples.algorithm:ALGORITHM"),
    "bpo.reward": ('bpo.reward="{}"', "examples.reward:shape"),
    "track.to.0": ('track.to=["{}"]', "examples.sink:Csv"),
    "curate.sources.0.generator": (
        'curate.sources=[{{ generator = "{}" }}]',
        "examples.generator:draw",
    ),
    "curate.sources.0.layout": (
        'curate.sources=[{{ path = "x.jsonl", layout = "{}" }}]',
        "examples.layout:read",
    ),
    "curate.sources.0.verifier": (
        'curate.sources=[{{ path = "x.jsonl", layout = "gsm8k", verifier = "{}" }}]',
        "examples.verifier:grade",
    ),
}
MISTAKES = {
    "no_such_module:x": "no module no_such_module",
    "examples.reward:": 'write it as "module:attribute"',
    "examples.reward:absent": "has no absent",
    "own_broken:x": "its import fails: ZeroDivisionError: division by zero (own_broken.py:2)",
    "examples.reward:PRICE": "is float",
    "own_elsewhere:anything": "is not on every node",
}


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module whose import fails, and a folder outside of it."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "own_broken.py").write_text("x = 1\nx = 1 / 0\n")
    (elsewhere / "own_elsewhere.py").write_text("def anything(*values): ...\n")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.syspath_prepend(here)
    return here


@pytest.mark.parametrize("key", KEYS)
def test_an_own_object_is_taken_from_a_recipe(key: str) -> None:
    override, name = KEYS[key]
    assert Recipe.of({"name": "t"}, [override.format(name)]).name == "t"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_when_the_recipe_is_read(key: str, name: str, broken: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        Recipe.of({"name": "t"}, [KEYS[key][0].format(name)])
    assert refused.value.key == key and str(refused.value.value) == name
    said = MISTAKES[name]
    if key == "bpo.algorithm" and name == "own_elsewhere:anything":
        said = "is not on every node"
    assert said in refused.value.fix and "\n" not in str(refused.value)


def test_a_function_that_takes_other_arguments_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is called with \(group\)"):
        Recipe.of({"name": "t"}, ['bpo.reward="examples.verifier:grade"'])


def test_only_an_algorithm_is_taken_as_one() -> None:
    with pytest.raises(ConfigError, match=r"bpo\.algorithm"):
        Recipe.of({"name": "t"}, ['bpo.algorithm="examples.reward:shape"'])


def test_an_own_algorithm_brings_its_defaults_and_the_recipe_has_the_last_word() -> None:
    own = 'bpo.algorithm="examples.algorithm:ALGORITHM"'
    assert Recipe.of({"name": "t"}, [own]).bpo.kl == 0.0
    assert Recipe.of({"name": "t"}, [own, "bpo.kl=0.5"]).bpo.kl == 0.5


def test_a_verifier_of_the_user_gives_partial_credit() -> None:
    name, args = "examples.verifier:grade", json.dumps({"places": 1})
    found = [score(f"</think>{text}", "-3.333", name, args) for text in ("-3.3", "3.3", "5", "x")]
    assert found == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return 2.0", "returned 2.0, not a score of 0 to 1"),
        ("return None", "returned None, not a score of 0 to 1"),
        ("return float('nan')", "returned nan, not a score"),
        ("return undefined", "NameError: name 'undefined' is not defined (own_rule.py:2)"),
        ("raise SystemError('x')", "SystemError: x (own_rule.py:2)"),
    ],
)
def test_a_fault_of_own_code_is_named_with_its_place(
    body: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_rule.py").write_text(f"def grade(response, answer, **args):\n    {body}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    plugins.load.cache_clear()
    monkeypatch.delitem(__import__("sys").modules, "own_rule", raising=False)
    with pytest.raises(plugins.PluginError) as failed:
        score("</think>1", "1", "own_rule:grade", "{}")
    assert str(failed.value) == f"verifier own_rule:grade: {failed.value.problem}"
    assert problem in failed.value.problem
    plugins.load.cache_clear()


def group(*scores: float) -> RolloutGroup:
    prompt = Prompt("p", "q", (), "1", "int", "{}", "t", "easy")
    completions = tuple(
        Completion(
            prompt_id="p",
            mode=Mode.NON_THINKING,
            prompt_ids=(1,),
            token_ids_T=(1,) * (at + 1),
            num_forced=0,
            logprobs_T=(0.0,) * (at + 1),
            versions_T=(0,) * (at + 1),
            text="</think>1",
            finished=True,
            worker="w",
        )
        for at in range(len(scores))
    )
    return RolloutGroup(prompt, completions, tuple(scores))


def test_an_own_reward_replaces_the_scores() -> None:
    config = Recipe.of({"name": "t"}, ['bpo.reward="examples.reward:shape"']).bpo
    assert shaped(group(1.0, 1.0), config).rewards_G == pytest.approx((0.9, 0.8))


@pytest.mark.parametrize("returned", ["[1.0]", "None", "[1.0, float('inf')]", "['a', 'b']"])
def test_a_reward_for_each_completion_is_wanted(
    returned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_reward_{abs(hash(returned))}"
    (tmp_path / f"{name}.py").write_text(f"def shape(group):\n    return {returned}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = Recipe.of({"name": "t"}, [f'bpo.reward="{name}:shape"']).bpo
    with pytest.raises(plugins.PluginError, match="returned"):
        shaped(group(1.0, 0.0), config)


def test_a_row_names_no_code_that_the_recipe_does_not_name() -> None:
    own = "examples.verifier:grade"
    check_answer("0.5", own, "{}", [own])
    for named in ([], ["another.module:grade"]):
        with pytest.raises(RefusedPromptError, match="does not name") as refused:
            check_answer("0.5", own, "{}", named)
        assert refused.value.reason == "unknown_verifier"


def test_a_reference_answer_that_the_own_verifier_calls_wrong_is_refused() -> None:
    own = "examples.verifier:grade"
    with pytest.raises(RefusedPromptError):
        check_answer("about a half", own, "{}", [own])


def test_a_generator_and_a_layout_make_what_the_built_in_ones_make() -> None:
    sample = family_of(SourceConfig(generator="examples.generator:draw"))(3, "rl", 0, (1, 1, 1))
    assert sample == family_of(SourceConfig(generator="examples.generator:draw"))(
        3, "rl", 0, (1, 1, 1)
    )
    source = SourceConfig(path="exam.jsonl", layout="examples.layout:read")
    record = {"q": "Which is even?", "options": "3; 4", "key": "B"}
    read: Any = read_record(record, source, "exam.jsonl:0", lambda name: b"")
    assert (read.answer, read.verifier, read.guess_rate) == ("B", "choice", 0.5)


def test_another_source_of_the_code_is_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "own_key.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for body in ("return 1.0", "return 1.0", "return 0.5"):
        code.write_text(f"def grade(response, answer):\n    {body}\n")
        plugins._digest.cache_clear()
        source = SourceConfig(path="x", layout="gsm8k", verifier="own_key:grade")
        found.append(CurateConfig(sources=(source,)).settings()["plugins"])
    assert found[0] == found[1] != found[2]
