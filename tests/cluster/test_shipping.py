"""What a cluster is given of a checkout: what git tracks. A password that lies beside it stays."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path, PurePath

import pytest

from bimode.errors import ConfigError
from cluster import submit
from cluster.shipping import is_key, shipped_copy, shipped_files
from cluster.submit import Submission

REPO = Path(__file__).resolve().parents[2]
HELD = "PLANTED"
KEYS = [
    ".env",
    ".env.local",
    "tls.pem",
    "deploy.key",
    "id_rsa",
    "id_ed25519",
    ".netrc",
    "gcp-credentials.json",
    "auth_token",
]
RAN = ["bimode/a.py", "pipelines/recipes/x.toml", "assets/tiny/model.safetensors", "pyproject.toml"]
NEEDLESS = [
    "tests/t.py",
    "docs/d.md",
    "runs/x/manifest.json",
    ".venv/v.py",
    ".venv-gpu/v.py",
    "bimode/__pycache__/a.pyc",
]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A checkout with keys in several folders, runs, and a link to another's home."""
    root = tmp_path / "code"
    for name in (*RAN, *NEEDLESS, *KEYS, *(f"bimode/{key}" for key in KEYS), ".env.d/prod.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(HELD if any(key in name for key in KEYS) else "x")
    (tmp_path / "home").write_text(HELD)
    (root / "bimode" / "link.txt").symlink_to(tmp_path / "home")
    return root


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)


def uploaded(root: Path) -> dict[str, str]:
    with shipped_copy(root) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = {
            str(path.relative_to(folder)): path.read_text()
            for path in folder.rglob("*")
            if path.is_file()
        }
    assert not folder.exists()
    return files


def test_what_git_does_not_track_stays(code: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A `.env` of a checkout was uploaded, and with it whatever opens the accounts in it."""
    git(code, "init", "-q", ".")
    git(code, "add", *RAN, "tests")
    (code / "mine.py").write_text("x")
    (code / "bimode" / "new.py").write_text("x")
    (code / "bimode" / "a.py").write_text("changed, not committed")
    found = uploaded(code)
    assert sorted(found) == sorted(RAN) and HELD not in "".join(found.values())
    assert found["bimode/a.py"] == "changed, not committed"
    said = capsys.readouterr().err.splitlines()
    assert said == ["cluster: not uploaded, since git does not track it: bimode/new.py, mine.py"]


def test_a_tracked_file_that_looks_like_a_key_is_said(
    code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(code, "init", "-q", ".")
    git(code, "add", *RAN, ".env", "bimode/link.txt")
    assert ".env" in uploaded(code)
    assert capsys.readouterr().err == "cluster: uploaded, and looks like a key: .env\n"
    assert PurePath("bimode/link.txt") not in shipped_files(code), "it leads out of the code"


def test_without_git_only_packages_are_uploaded_and_no_key(
    code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unpacked archive, or a checkout of another user that git does not trust."""
    (code / "bimode" / "new.py").write_text("x")
    found = uploaded(code)
    assert sorted(found) == sorted([*RAN, "bimode/new.py"])
    assert HELD not in "".join(found.values()) and capsys.readouterr().err == ""


def test_a_checkout_that_tracks_nothing_here_is_none(code: Path) -> None:
    """Code that lies in the folder of another project, which does not track it."""
    git(code.parent, "init", "-q", ".")
    assert sorted(map(str, shipped_files(code))) == sorted(RAN)


def test_this_checkout_has_all_that_a_run_reads() -> None:
    names = set(map(str, shipped_files(REPO)))
    for needed in (
        "pipelines/recipes/smoke.toml",
        "assets/tiny-base/config.json",
        "pyproject.toml",
        "bimode/config/load.py",
    ):
        assert needed in names
    assert not [
        name for name in names if name.startswith(("tests/", "docs/", "benchmarks/", ".venv"))
    ]


def test_a_recipe_that_stays_behind_is_refused(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job would find no such file, after minutes in a queue."""
    git(code, "init", "-q", ".")
    git(code, "add", *RAN)
    monkeypatch.setattr(submit, "ROOT", code)
    (code / "own.toml").write_text('name = "t"')
    with pytest.raises(
        ConfigError, match=r"^recipe = own\.toml: is not uploaded .*; git add own\.toml$"
    ):
        Submission("run", code / "own.toml", "/shared/x").entrypoint()
    git(code, "add", "own.toml")
    assert (
        Submission("run", code / "own.toml", "/shared/x")
        .entrypoint()
        .startswith("python -m pipelines.run own.toml")
    )


@pytest.mark.parametrize("name", [*KEYS, "A.PEM", "server.P12", "my_secret.yaml"])
def test_names_of_keys_are_known(name: str) -> None:
    assert is_key(PurePath("x", name))


@pytest.mark.parametrize(
    "name", ["uri_secrets.py", "tokenizer.json", "keyboard.toml", "environment.py", "smoke.toml"]
)
def test_other_names_are_no_keys(name: str) -> None:
    assert not is_key(PurePath(name))
