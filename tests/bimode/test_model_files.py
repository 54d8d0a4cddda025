"""A model directory may be anybody's: none of its code runs, and what is damaged is one line before
anything starts.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bimode.errors import ConfigError
from bimode.models.model_files import INDEX, check_model_files
from bimode.models.prepare_model import prepare_base
from bimode.renderer import Renderer, load_model, model_kind, save_model
from pipelines.__main__ import exit_code
from pipelines.serve import _length_fits, servable
from tests.ports import free_ports

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("bimode", "data_curation", "actors", "cluster", "pipelines")
OPENERS = {"from_pretrained", "LLM"}


@pytest.fixture
def model(text_model: Path, tmp_path: Path) -> Path:
    """A sound model that could be served, to be spoilt."""
    return Path(shutil.copytree(text_model, tmp_path / "model"))


def open_all(model: Path) -> None:
    """Everything that serving and training read of a directory."""
    _ = servable(model)
    _length_fits(model, 1)
    load_model(model, torch.float32)


def test_a_sound_one_is_opened(model: Path, tiny_llava: Path) -> None:
    open_all(model)
    open_all(tiny_llava)


def change(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def config(**keys: Any) -> Callable[[Path], None]:
    return lambda model: change(model / "config.json", **keys)


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda model: (model / name).write_text(content) and None


def header(content: bytes, length: int | None = None) -> Callable[[Path], None]:
    size = len(content) if length is None else length
    data = size.to_bytes(8, "little") + content
    return lambda model: (model / "model.safetensors").write_bytes(data) and None


def index(name: Any) -> Callable[[Path], None]:
    return text(INDEX, json.dumps({"weight_map": {"lm_head.weight": name}}))


def link(name: str, target: str) -> Callable[[Path], None]:
    def plant(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).symlink_to(target)

    return plant


DEEP = "[" * 200_000
TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 40]}
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "config null": (text("config.json", "null"), "config.json is no JSON table"),
    "config list": (text("config.json", "[1]"), "config.json is no JSON table"),
    "config empty": (text("config.json", ""), "config.json is no JSON table"),
    "config deep": (text("config.json", DEEP), "config.json is no JSON table"),
    "config deep tables": (text("config.json", '{"a":' * 200_000), "config.json is no JSON table"),
    "config digits": (text("config.json", '{"a": ' + 5000 * "1" + "}"), "is no JSON table"),
    "config bytes": (
        lambda model: (model / "config.json").write_bytes(b"\xff\xfe\x00") and None,
        "config.json is no JSON table",
    ),
    "text_config null": (config(text_config=None), "text_config that is no table"),
    "text_config text": (config(text_config="x"), "text_config that is no table"),
    "no model_type": (lambda model: (model / "config.json").write_text("{}") and None, ""),
    "model_type number": (config(model_type=3), ""),
    "model_type unknown": (config(model_type="../../etc"), ""),
    "model_type table": (config(model_type={"a": 1}), ""),
    "hidden_size text": (config(hidden_size="x"), ""),
    "hidden_size null": (config(hidden_size=None), ""),
    "heads list": (config(num_attention_heads=[1, 2]), ""),
    "dtype unknown": (config(dtype="system"), ""),
    "rope wrong": (config(rope_parameters="x", rope_scaling=[1]), ""),
    "vocabulary": (config(vocab_size=7), "its weights cannot be loaded"),
    "width": (config(hidden_size=10**9, num_attention_heads=10**6), "its weights cannot be loaded"),
    "negative": (config(intermediate_size=-1), "its weights cannot be loaded"),
    "layers": (config(num_hidden_layers=10**9), "num_hidden_layers = 1e+09, more than 1,000"),
    "layers deep": (
        config(text_config={"model_type": "llama", "n_layer": 10**12}),
        "n_layer = 1e+12, more than 1,000",
    ),
    "labels": (config(num_labels=10**9), "num_labels = 1e+09, more than 100,000"),
    "experts": (config(num_local_experts=10**8), "num_local_experts = 1e+08, more than"),
    "kernel": (config(attn_implementation="evil/kernel"), "evil/kernel, code from elsewhere"),
    "tokenizer deep": (text("tokenizer.json", DEEP), "no tokenizer or processor there"),
    "tokenizer null": (text("tokenizer.json", "null"), "no tokenizer or processor there"),
    "tokenizer model": (text("tokenizer.json", '{"model": {"type": "BPE", "vocab": 3}}'), ""),
    "tokenizer_config list": (text("tokenizer_config.json", "[]"), "is no JSON table"),
    "tokenizer_config class": (
        lambda model: change(model / "tokenizer_config.json", tokenizer_class=["a"]),
        "no tokenizer or processor there",
    ),
    "special tokens": (text("special_tokens_map.json", "3"), "is no JSON table"),
    "generation null": (text("generation_config.json", "null"), "is no JSON table"),
    "weights header": (header(b"{}", 1 << 40), "model.safetensors is damaged"),
    "weights deep": (header(DEEP.encode()), "model.safetensors is damaged"),
    "weights list": (header(b"[1]"), "model.safetensors is damaged"),
    "weights offsets": (header(json.dumps({"a": TENSOR}).encode()), "is damaged"),
    "weights cut": (header(b"", 0), "model.safetensors is damaged"),
    "weights empty": (
        lambda model: (model / "model.safetensors").write_bytes(b"") and None,
        "model.safetensors is damaged",
    ),
    "index outside": (index("../../other/model.safetensors"), "names files that are not there"),
    "index absolute": (index("/etc/passwd"), "names files that are not there"),
    "index NUL": (index("a\0b.safetensors"), "names files that are not there"),
    "index number": (index(3), "names files that are not there"),
    "index list": (text(INDEX, json.dumps({"weight_map": [1]})), "names files that are not there"),
    "link": (link("vocab.txt", "/etc/passwd"), "vocab.txt leads out of it"),
    "link up": (link("merges.txt", "../../secret"), "merges.txt leads out of it"),
    "link deep": (link("original/params.json", "/etc/hosts"), "original/params.json leads out"),
    "link folder": (link("extra", "/etc"), "extra leads out of it"),
    "link loop": (link("tokenizer.json", "tokenizer.json"), ""),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_directory_is_one_line(model: Path, kind: str) -> None:
    """They ended in tracebacks of transformers, or were built for ever."""
    spoil, says = HOSTILE[kind]
    spoil(model)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"^(--)?model = {model}: ") as told:
        open_all(model)
    line = str(told.value)
    assert says in line and "\n" not in line and len(line) < 600, line
    assert time.monotonic() - began < 5


def test_a_hostile_directory_ends_a_command_with_2(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (model / "tokenizer.json").write_text(DEEP)
    (port,) = free_ports(1)
    assert exit_code(["serve", "--model", str(model), "--port", str(port)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: --model = {model}: no tokenizer or processor there")


def test_a_name_with_a_nul_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no such directory"):
        model_kind(Path("a\0b"))


def test_a_link_within_the_directory_and_the_hubs_cache_are_sound(
    model: Path, tmp_path: Path
) -> None:
    """The cache keeps every file under its digest beside the snapshots, and links to it."""
    (model / "same.json").symlink_to("config.json")
    check_model_files(model)
    home = tmp_path / "models--a--b"
    snapshot = home / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for file in model.iterdir():
        shutil.copy(file, home / "blobs" / f"digest-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/digest-{file.name}")
    assert model_kind(snapshot) == "text"
    (snapshot / "x.json").symlink_to("../../refs")
    with pytest.raises(ConfigError, match=r"x\.json leads out of it"):
        model_kind(snapshot)


# ---- code ----

EVIL = """
import pathlib
pathlib.Path({ran!r}).touch()
from transformers import LlamaConfig as Evil, PreTrainedTokenizerFast
class EvilTokenizer(PreTrainedTokenizerFast): pass
class EvilProcessor: pass
"""


def with_code(model: Path, file: str, name: str, **keys: Any) -> Path:
    """Gives `model` code that leaves a file, which `file` names; returns the path of that file."""
    ran = model.parent / "ran"
    (model / "evil.py").write_text(EVIL.format(ran=str(ran)))
    if not (model / file).exists():
        (model / file).write_text("{}")
    change(
        model / file,
        auto_map={name: ["evil.EvilTokenizer", None] if "Tok" in name else "evil.Evil"},
        **keys,
    )
    return ran


@pytest.mark.parametrize(
    ("file", "name", "keys"),
    [
        ("config.json", "AutoConfig", {"model_type": "evil"}),
        ("tokenizer_config.json", "AutoTokenizer", {"tokenizer_class": "EvilTokenizer"}),
    ],
)
def test_code_of_a_model_never_runs_and_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, file: str, name: str, keys: dict[str, Any]
) -> None:
    """`yes | bimode serve`: transformers asked, and a `y` ran it."""
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    ran = with_code(model, file, name, **keys)
    with pytest.raises(ConfigError, match=f"its {file} has an auto_map, code of its own, which is"):
        _ = Renderer(model).tokenizer
    assert not ran.exists()


def test_code_that_a_built_in_class_stands_for_is_ignored_and_not_published(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models that were published before transformers had their class keep the name of their code.

    What a run writes has no remote code: the name alone would have it fetched from somewhere.
    """
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    model = Path(shutil.copytree(tiny_text, tmp_path / "model"))
    ran = with_code(model, "config.json", "AutoConfig")
    change(
        model / "config.json",
        auto_map={"AutoConfig": "org/repo--evil.Evil", "AutoModelForCausalLM": "evil.M"},
    )
    with_code(model, "tokenizer_config.json", "AutoTokenizer")
    made, added = prepare_base(str(model), tmp_path / "made", seed=0)
    assert added and not ran.exists()
    written = "".join(file.read_text() for file in made.glob("*.json"))
    assert "auto_map" not in written and "evil" not in written and not list(made.glob("*.py"))
    again = tmp_path / "again"
    change(made / "config.json", auto_map={"AutoConfig": "evil.Evil"})
    save_model(load_model(made, torch.float32), again)
    assert "auto_map" not in (again / "config.json").read_text()


class Bomb:
    """A pickle that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "consolidated.00.pth", "model.pkl", "model.pt"]
)
def test_pickled_weights_are_refused_by_name(model: Path, tmp_path: Path, name: str) -> None:
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for door in (
        model_kind,
        lambda path: load_model(path, torch.float32),
        lambda path: Renderer(path).tokenizer,
    ):
        with pytest.raises(
            ConfigError, match=rf"its weights are pickled \({name}\).*as safetensors"
        ):
            door(model)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_beside_safetensors_are_not_opened(model: Path, tmp_path: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    load_model(model, torch.float32)
    assert not (tmp_path / "ran").exists()


def calls(tree: ast.AST) -> list[ast.Call]:
    """Calls that open a model, its config or its tokenizer."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        call
        for call in found
        if (getattr(call.func, "attr", "") or getattr(call.func, "id", "")) in OPENERS
    ]


def test_every_call_that_opens_a_model_forbids_its_code() -> None:
    """transformers asks on the terminal where nothing is said."""
    seen = 0
    for package in PACKAGES:
        for path in (REPO / package).rglob("*.py"):
            for call in calls(ast.parse(path.read_text())):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert given.get("trust_remote_code") == "False", f"{path}: {ast.unparse(call)}"
                seen += 1
    assert seen >= 4
    code = (REPO / "actors" / "serving" / "app.py").read_text()
    assert '"trust_remote_code": False' in code and '"load_format": "safetensors"' in code
    assert (
        'load_format="safetensors"' in (REPO / "actors" / "rollout" / "vllm_engine.py").read_text()
    )
