"""Which recipe a command means: a bare name is met with the way to the recipes, a run is evaluated
by its own, unless damaged.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from pipelines import harness
from pipelines.__main__ import exit_code
from pipelines.harness import base_directory

sys.path.insert(0, str(Path(__file__).parent))
from processes import REPO

SMOKE = REPO / "pipelines" / "recipes" / "smoke.toml"


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("run", "tiny", "--out", "x"), "; did you mean pipelines/recipes/tiny.toml?"),
        (
            ("submit", "smoke_text", "--out", "/x"),
            "; did you mean pipelines/recipes/smoke-text.toml?",
        ),
        (("evaluate", "zzz", "--out", "x"), ""),
    ],
)
def test_a_bare_name_is_told_where_the_recipes_are(
    words: tuple[str, ...],
    nearest: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the root of the repository, where a newcomer stands, the line can be pasted."""
    monkeypatch.chdir(REPO)
    assert exit_code(list(words)) == 2
    fix = f"no such file; recipes are in pipelines/recipes/{nearest}"
    assert capsys.readouterr().err == f"error: recipe = {words[1]}: {fix}\n"


def test_a_recipe_of_ones_own_is_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert exit_code(["run", "tiny.tomll", "--out", "x"]) == 2
    assert capsys.readouterr().err.endswith("; did you mean tiny.toml?\n")


def test_every_base_in_the_repository_that_a_recipe_names_is_there() -> None:
    """A shipped recipe runs as it stands, unless it says that the model is yours or another
    recipe's.
    """
    bases = {
        Recipe.load(path).model.base for path in (REPO / "pipelines" / "recipes").glob("*.toml")
    }
    assert {
        base for base in bases if base.startswith("assets/") and not base_directory(base).is_dir()
    } == set()


@pytest.mark.parametrize("words", [("{run}",), ("--out", "{run}"), ("{run}", "--out", "{run}")])
def test_a_run_is_evaluated_by_its_own_recipe(
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has the run need not know which recipe and which overrides made it."""
    asked: list[tuple[Recipe, Path]] = []
    monkeypatch.setattr(
        harness, "run_stages", lambda names, loaded, run: asked.append((loaded, run))
    )
    made = Recipe.of({"name": "t"}, ("evaluate.max_tokens=99", "bpo.algorithm=grpo"), seed=3)
    harness.describe_run(made, tmp_path)
    assert (
        exit_code(["evaluate", *(word.format(run=tmp_path) for word in words), "--modes", "auto"])
        == 0
    )
    [(loaded, run)] = asked
    assert run == tmp_path and loaded.evaluate.modes == ("auto",)
    assert loaded.model_copy(update={"evaluate": made.evaluate}) == made
    assert f"by the recipe in {tmp_path}/manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", '{"recipe": {', "[1]"])
@pytest.mark.parametrize(
    "words", [("audit", "{run}"), ("evaluate", "{run}"), ("bpo", str(SMOKE), "--out", "{run}")]
)
def test_a_manifest_that_is_damaged_or_of_others_is_named(
    text: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a copy of a run that broke off; to say that the same command continues would be
    wrong.
    """
    (tmp_path / "bpo" / "ledger").mkdir(parents=True)
    (tmp_path / "anneal" / "model").mkdir(parents=True)
    (tmp_path / "curate" / "data").mkdir(parents=True)
    spoilt = tmp_path / ("bpo" if words[0] == "bpo" else ".") / "manifest.json"
    spoilt.write_text(text)
    assert exit_code([word.format(run=tmp_path) for word in words]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: manifest.json = {spoilt}: is damaged, half copied"
    )
    assert spoilt.read_text() == text


@pytest.mark.parametrize(
    ("encoding", "what"),
    [
        ("utf-8-sig", "UTF-8 with a byte-order mark"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-32", "UTF-32"),
    ],
)
def test_a_recipe_in_another_encoding_is_named_for_what_it_is(
    tmp_path: Path, encoding: str, what: str
) -> None:
    """It was `Invalid statement (at line 1, column 1)`, of a line that looks right in every
    editor.
    """
    path = tmp_path / "r.toml"
    path.write_bytes('name = "é"\r\n'.encode(encoding))
    with pytest.raises(ConfigError, match=f"is {what}; save it as plain UTF-8"):
        Recipe.load(path)
    path.write_bytes('name = "é"\r\n'.encode())
    assert Recipe.load(path).name == "é"
