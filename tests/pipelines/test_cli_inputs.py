"""A model, data or file that a command cannot use is refused in one line before anything starts."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from bimode.renderer import Renderer, model_kind
from bimode.storage.dataset import SCHEMA
from bimode.storage.run_dir import StageDir
from pipelines import curate, evaluate, harness
from pipelines.__main__ import exit_code
from pipelines.harness import base_directory
from tests.pipelines.test_cli import SMOKE, said


def test_model_and_data_are_looked_into_before_anything_starts(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each complaint names the flag; the run directory is not even made."""
    data, bare, out = tmp_path / "data", tmp_path / "bare", tmp_path / "run"
    data.mkdir()
    bare.mkdir()
    (data / "train-00000.parquet").write_text("")
    words = ("evaluate", "--out", str(out), "--data", str(data), "--model")
    assert said(capsys, *words, str(tiny_llava)) == (
        2,
        f"error: --data = {data}: no eval-*.parquet there; here are train-00000.parquet",
    )
    curated = tmp_path / "earlier" / "curate" / "data"
    curated.mkdir(parents=True)
    run = (
        "evaluate",
        "--out",
        str(out),
        "--data",
        str(tmp_path / "earlier"),
        "--model",
        str(tiny_llava),
    )
    assert said(capsys, *run) == (
        2,
        f"error: --data = {curated}: no eval-*.parquet there",
    ), "a run stands for its data"
    pq.write_table(SCHEMA.empty_table(), data / "eval-00000.parquet")
    assert said(capsys, *words, str(bare))[1].startswith(
        f"error: --model = {bare}: no config.json there"
    )
    shutil.copy(tiny_llava / "config.json", bare)
    for command_line in ((*words, str(bare)), ("serve", "--model", str(bare))):
        code, line = said(capsys, *command_line)
        assert code == 2 and line.startswith(
            f"error: --model = {bare}: no tokenizer or processor there"
        )
    assert not out.exists()


def test_any_model_is_evaluated_by_the_lengths_of_a_recipe(
    recipe: Path,
    tiny_llava: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without one, the tiny model's are told, since a real model is cut off by them."""
    asked: list[Recipe] = []
    named: list[str] = []

    def run_stages(
        names: tuple[str, ...], loaded: Recipe, run: Path, inputs: dict[str, Path]
    ) -> None:
        asked.append(loaded)
        named.extend(evaluate.models_of(inputs))

    monkeypatch.setattr(harness, "run_stages", run_stages)
    pq.write_table(SCHEMA.empty_table(), tmp_path / "eval-00000.parquet")
    words = ("--out", str(tmp_path / "run"), "--model", str(tiny_llava), "--data", str(tmp_path))
    recipe.write_text(SMOKE + "[model]\nmax_model_len = 4096\n[evaluate]\nmax_tokens = 2048\n")
    assert exit_code(["evaluate", str(recipe), *words, "--set", "evaluate.workers=1"]) == 0
    assert re.fullmatch(r"bimode: \d+ s in all, with start-up\n", capsys.readouterr().err)
    assert (
        asked[0].model.max_model_len,
        asked[0].evaluate.max_tokens,
        asked[0].evaluate.workers,
    ) == (4096, 2048, 1)
    assert asked[0].model.base == str(tiny_llava) and asked[0].stages == ("evaluate",)
    assert exit_code(["evaluate", *words, "--set", "evaluate.max_tokens=100"]) == 0
    assert (
        "evaluate.max_tokens = 100, model.max_model_len = 256; name a RECIPE too"
        in capsys.readouterr().err
    )
    assert (
        named == [f"{tiny_llava.parent.name}/{tiny_llava.name}"] * 2 and asked[1].name == named[1]
    )


def test_two_models_of_one_folder_name_are_told_apart(tmp_path: Path) -> None:
    """Every run ends in a folder `model`; two pages that call their model so cannot be compared."""
    assert (
        evaluate.name_of(tmp_path / "A" / "model") == "A/model"
        and evaluate.name_of(Path("/model")) == "model/model"
    )
    for run in ("one", "two"):
        stage = StageDir(tmp_path / run, "bpo")
        (stage.path / "model").mkdir(parents=True)
        stage.seal({}, {}, ("model",), {}, 0.0)
        assert evaluate.name_of(stage.path / "model") == f"{run}/bpo"


def test_a_tokenizer_made_of_nothing_is_none(tmp_path: Path) -> None:
    """Some tokenizer classes come up empty where their files are missing, instead of failing."""
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ConfigError, match="no tokenizer or processor there"):
        _ = Renderer(tmp_path).tokenizer


def test_an_image_text_model_of_an_unknown_family_is_refused(
    tiny_llava: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_llava, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "vipllava"}))
    with pytest.raises(ConfigError, match=r"vipllava is not known; .* llava, qwen2_5_vl"):
        _ = Renderer(other).processor


def test_a_text_model_is_not_asked_about_images(tiny_text: Path, tiny_llava: Path) -> None:
    curate.check(Recipe.of({"name": "t"}), {"base": tiny_llava})
    with pytest.raises(
        ConfigError, match=r"curate\.sources\.0\.family = digits: asks about images"
    ):
        curate.check(Recipe.of({"name": "t"}), {"base": tiny_text})


@pytest.mark.parametrize(("section", "role"), [("judge", "judge"), ("traces", "teacher")])
def test_a_judge_or_a_teacher_that_is_no_model_is_refused_before_anything_starts(
    section: str, role: str, tiny_llava: Path, tmp_path: Path
) -> None:
    """It once was found out by an engine, after all questions had been tagged."""
    recipe = Recipe.of({"name": "t", "curate": {section: {"model": str(tmp_path)}}})
    with pytest.raises(
        ConfigError, match=rf"^curate\.{section}\.model = .*: no config\.json there"
    ):
        curate.check(recipe, {"base": tiny_llava, role: tmp_path})


def test_missing_base_directory(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = said(
        capsys, "anneal", str(recipe), "--out", str(tmp_path / "run"), "--set", "model.base=absent"
    )
    assert code == 2 and line.startswith("error: model.base = absent: no such directory")


def test_what_this_user_may_not_read_is_one_line(
    tmp_path: Path,
    tiny_llava: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run of a colleague, or a model of theirs: the commands that read it ended in a stack, and a
    stage in "the same command continues". Root may read everything, hence the stand-in.
    """

    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    out, fix = tmp_path, "this user has no permission for it; give it, or name another"
    with monkeypatch.context() as closed:
        closed.setattr(Path, "is_file", denied)
        for words in (("audit", "closed"), ("run", "closed/r.toml", "--out", str(out))):
            code, line = said(capsys, *words)
            assert code == 2 and line.startswith("error: closed/") and line.endswith(fix)
    monkeypatch.setattr(Path, "open", denied)
    for look, key in ((base_directory, "model.base"), (model_kind, "model")):
        with pytest.raises(
            ConfigError, match=rf"^{key} = {tiny_llava}/chat_template\.jinja: {fix}"
        ):
            look(str(tiny_llava) if look is base_directory else tiny_llava)


def test_model_of_another_kind_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "vit"}')
    code, line = said(
        capsys,
        "anneal",
        str(recipe),
        "--out",
        str(tmp_path / "r"),
        "--set",
        f"model.base={tmp_path}/vit",
    )
    assert code == 2 and "vit is neither text nor image-text" in line


def test_missing_input_names_the_stage_to_run(
    recipe: Path, tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for is_there in (False, True):
        code, line = said(
            capsys, "anneal", str(recipe), "--out", str(run), "--set", f"model.base={tiny_llava}"
        )
        assert code == 2 and line.startswith(
            f"error: --out = {run}: has no curate/data, which anneal needs; run curate first"
        )
        assert run.exists() is is_there, (
            "what is refused leaves nothing behind, and what was there stays"
        )
        run.mkdir(exist_ok=True)
    assert "recipe" not in json.loads((run / "manifest.json").read_text()), (
        "nothing has worked here by this recipe"
    )


def test_a_file_in_the_way_of_out(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("")
    code, line = said(capsys, "run", str(recipe), "--out", str(tmp_path / "run"))
    assert code == 2 and "a file is in the way" in line


def test_relative_out_is_refused_inside_a_job(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code, line = said(capsys, "run", str(recipe), "--out", "runs/x")
    assert code == 2 and line.startswith("error: --out = runs/x: inside a job it must be absolute")
