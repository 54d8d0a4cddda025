"""What `bimode serve` refuses on a cluster where Serve is running: nobody's application is
replaced, no address is made up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import devices
from bimode.errors import ConfigError
from bimode.storage.run_dir import write_atomic
from cluster import placement
from pipelines.serve import _has_gpus, _has_room, _is_a_name, _length_fits, servable, served_name


@pytest.fixture()
def serving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve at 0.0.0.0:8000 with one application, `bpo`."""
    from ray import serve
    from ray.serve import context

    client = SimpleNamespace(http_config=SimpleNamespace(host="0.0.0.0", port=8000))
    monkeypatch.setattr(
        context, "_get_global_client", lambda raise_if_no_controller_running: client
    )
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"bpo": None}))


@pytest.mark.parametrize(
    ("host", "port", "name", "line"),
    [
        (
            "0.0.0.0",
            8000,
            "bpo",
            (
                "--name = bpo: is served on this cluster already; choose another, or end that one:"
                " python -c"
            ),
        ),
        (
            "127.0.0.1",
            8000,
            "x",
            (
                "--host and --port = 127.0.0.1:8000: Serve listens elsewhere on this cluster"
                " already; use --host 0.0.0.0 --port 8000"
            ),
        ),
        ("0.0.0.0", 8001, "x", "--host and --port = 0.0.0.0:8001: "),
    ],
)
def test_what_is_taken_is_said(serving: None, host: str, port: int, name: str, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _has_room(name, host, port)
    assert str(refused.value).startswith(line)


def test_another_name_at_the_same_address_has_room(serving: None) -> None:
    _has_room("x", "0.0.0.0", 8000)


def test_a_cluster_without_serve_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve import context

    def none(raise_if_no_controller_running: bool) -> Any:
        assert not raise_if_no_controller_running
        return None

    monkeypatch.setattr(context, "_get_global_client", none)
    _has_room("bpo", "127.0.0.1", 8000)


def test_more_than_the_models_config_allows_is_said_at_once(tiny_llava: Path) -> None:
    most = json.loads((tiny_llava / "config.json").read_text())["text_config"][
        "max_position_embeddings"
    ]
    _length_fits(tiny_llava, most)
    with pytest.raises(
        ConfigError, match=f"max-model-len = {most + 1}: the model's config allows {most} tokens"
    ):
        _length_fits(tiny_llava, most + 1)


@pytest.mark.parametrize("name", ["", "a b", "org/model", "a{b}", "ä", ".."])
def test_a_name_can_stand_in_a_url(name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits, dots"):
        _is_a_name(name)
    _is_a_name("R-4B.v1_2")


def test_a_model_is_named_after_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert served_name(Path("..")) == tmp_path.parent.name
    assert (
        served_name(Path("runs/x/bpo/model")) == "bpo" and served_name(Path("mine/tiny/")) == "tiny"
    )


def test_gpus_that_no_node_has_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        placement, "node_resources", lambda: [{"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}, {"GPU": 1.0}]
    )
    checked: list[str] = []
    monkeypatch.setattr(devices, "check_role", lambda role, options: checked.append(role))
    _has_gpus(0)
    assert checked == []
    _has_gpus(2)
    assert checked == ["rollout"]
    with pytest.raises(
        ConfigError, match="--gpus = 3: Ray sees 2 here; use at most so many, 0 serves"
    ):
        _has_gpus(3)


def test_what_is_no_model_is_refused_at_once_and_shown_the_one_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of a run, of a stage, and the model of a stage that was interrupted, before an
    import of many seconds.
    """
    monkeypatch.setitem(sys.modules, "transformers", None)  # whoever imports it now fails
    for stage in ("anneal", "bpo"):
        write_atomic(tmp_path / stage / "claim.json", "{}")
    write_atomic(tmp_path / "anneal" / "model" / "config.json", "{}")
    says = {
        ".": f"did you mean {tmp_path}/anneal/model[?]",
        "anneal": f"did you mean {tmp_path}/anneal/model[?]",
        "bpo": "give a Hugging Face model directory",
        "bpo/model": "bpo has not ended; its own command continues it",
    }
    for path, fix in says.items():
        with pytest.raises(ConfigError, match=f"^--model = {tmp_path / path}: no .*; {fix}$"):
            servable(tmp_path / path)
    write_atomic(tmp_path / "bpo" / "model" / "config.json", "{}")
    with pytest.raises(ConfigError, match=f"did you mean {tmp_path}/bpo/model[?]"):
        servable(tmp_path)
