"""What a user meets on the command line when something is wrong: one line, an exit code, nothing started."""

from __future__ import annotations

import errno
import pickle
import resource
import sys
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from bimode.errors import ConfigError, DivergedError, StarvedError
from pipelines.cli import exit_code
from pipelines.failure import as_user_error

sys.path.insert(0, str(Path(__file__).parent))
from processes import REPO, command

SMOKE = 'name = "t"\nstages = ["anneal"]\n'


@pytest.fixture()
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "t.toml"
    path.write_text(SMOKE)
    return path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code, and the one line on stderr."""
    code = exit_code(list(words))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return code, lines[0]


def test_unknown_key_names_key_value_and_fix(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = said(capsys, "run", str(recipe), "--out", str(tmp_path / "run"), "--set", "anneal.stepz=3")
    assert code == 2
    assert line.startswith("error: anneal.stepz = 3: ") and "steps" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("run", "absent.toml", "--out", "x"), "recipe = absent.toml: no such file"),
        (("run", "{recipe}"), "Missing option '--out'"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("run", "{recipe}", "--out", "x", "--set", "anneal.steps=zero"), "anneal.steps = zero"),
        (("run", "{recipe}", "--out", "s3://bucket/run"), "--out = s3://bucket/run"),
        (("evaluate", "--out", "x", "--model", "m"), "--model and --data"),
        (("evaluate", "--out", "x", "--model", "absent", "--data", "absent"), "--model = absent: no such directory"),
        (("serve", "--model", "absent"), "model = absent: no config.json"),
        (("submit", "{recipe}", "--out", "relative", "--address", "http://127.0.0.1:1"), "the job sees only"),
        (("submit", "pipelines/recipes/tiny.toml", "--out", "relative"), "--out = relative: a job needs an absolute"),
    ],
)
def test_mistakes_are_one_line_and_code_2(
    words: tuple[str, ...], part: str, recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    code, line = said(capsys, *(word.format(recipe=recipe) for word in words))
    assert code == 2 and part in line


def test_missing_base_directory(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = said(capsys, "anneal", str(recipe), "--out", str(tmp_path / "run"), "--set", "model.base=absent")
    assert code == 2 and line.startswith("error: model.base = absent: no such directory")


def test_model_of_another_kind_is_refused(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "vit"}')
    code, line = said(capsys, "anneal", str(recipe), "--out", str(tmp_path / "r"), "--set", f"model.base={tmp_path}/vit")
    assert code == 2 and "vit is neither text nor image-text" in line


def test_missing_input_names_the_stage_to_run(
    recipe: Path, tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    code, line = said(capsys, "anneal", str(recipe), "--out", str(run), "--set", f"model.base={tiny_llava}")
    assert code == 2 and line.startswith(f"error: anneal.data = {run}/curate/data: no such path")


def test_a_file_in_the_way_of_out(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("")
    code, line = said(capsys, "run", str(recipe), "--out", str(tmp_path / "run"))
    assert code == 2 and "a file is in the way" in line


def test_relative_out_is_refused_inside_a_job(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code, line = said(capsys, "run", str(recipe), "--out", "runs/x")
    assert code == 2 and line.startswith("error: --out = runs/x: inside a job it must be absolute")


def test_ray_task_error_unwraps_to_its_cause(tmp_path: Path) -> None:
    def wrapped(cause: Exception) -> Exception:
        return RayTaskError("work", "many lines\nof traceback", cause).as_instanceof_cause()

    line = str(as_user_error("bpo", tmp_path, wrapped(DivergedError("loss is nan"))))
    assert line.startswith("bpo: loss is nan (") and "the same command continues" in line
    assert isinstance(as_user_error("curate", tmp_path, wrapped(StarvedError("no rows"))), StarvedError)
    assert "no space left on the disk" in str(as_user_error("anneal", tmp_path, wrapped(OSError(errno.ENOSPC, "full"))))
    config = as_user_error("bpo", tmp_path, wrapped(ConfigError("a.b", 3, "use 4")))
    assert str(config) == "a.b = 3: use 4" and config.exit_code == 2
    assert not (tmp_path / "error.log").exists()


def test_unforeseen_error_goes_to_the_log_and_says_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "curate").mkdir()
    (tmp_path / "curate" / "manifest.json").write_text("{}")
    error = as_user_error("anneal", tmp_path, RayTaskError("work", "trace", ZeroDivisionError("a bug")).as_instanceof_cause())
    assert "anneal: ZeroDivisionError: a bug" in str(error) and "curate" in str(error) and error.exit_code == 1
    assert "ZeroDivisionError" in (tmp_path / "error.log").read_text()
    assert pickle.loads(pickle.dumps(error)).args == error.args


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    def cpu_seconds() -> float:  # on an idle machine the same as the time on the wall, and steady on a busy one
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = cpu_seconds()
    shown = command("-m", "pipelines.cli", "--help")
    assert shown.returncode == 0 and "curate" in shown.stdout
    assert cpu_seconds() - before <= 0.5
    heavy = "import sys, pipelines.cli as c; c.exit_code(['--help']); sys.exit(bool({'torch', 'ray', 'vllm'} & set(sys.modules)))"
    assert command("-c", heavy).returncode == 0


def test_module_and_command_are_the_same() -> None:
    for stage in ("run", "submit", "serve"):
        assert f"bimode {stage}" in command("-m", f"pipelines.{stage}", "--help").stdout
