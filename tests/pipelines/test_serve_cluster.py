"""A served model on a cluster, beside others."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from processes import REPO, Running

from tests.cluster.hand_started import HandStarted
from tests.ports import free_ports

pytestmark = pytest.mark.ray

OTHER = """
import sys
from ray import serve

@serve.deployment
class Other:
    def __call__(self, request):
        return "still here"

serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Other.bind(), name="other", route_prefix="/")
"""


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


@pytest.mark.slow
def test_on_a_cluster_it_has_its_own_place_and_ends_itself_alone(
    tiny_llava: Path, tmp_path: Path
) -> None:
    """Whoever else serves on the cluster goes on, before, meanwhile and after."""
    import openai

    [port] = free_ports(1)
    root, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    words = (
        "-m",
        "pipelines.serve",
        "--model",
        str(tiny_llava),
        "--port",
        str(port),
        "--name",
        "mine",
    )
    with HandStarted() as cluster:
        joined = cluster.environment() | {
            "RAY_ADDRESS": f"127.0.0.1:{cluster.gcs}",
            "PYTHONPATH": str(REPO),
        }

        def started(*more: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, *more],
                cwd=REPO,
                env=joined,
                capture_output=True,
                text=True,
                timeout=400,
            )

        other = started("-c", OTHER, str(port))
        assert other.returncode == 0, other.stderr[-3000:]
        with Running((*words, "--max-model-len", "128"), log, joined) as running:
            running.wait_until(
                lambda: f"serve: ready at {root}/mine/v1" in log.read_text(), timeout=400
            )
            client = openai.OpenAI(base_url=f"{root}/mine/v1", api_key="none", max_retries=0)
            assert [model.id for model in client.models.list()] == ["mine"]
            with pytest.raises(openai.BadRequestError, match="128"):
                ask_text(client, "what " * 200)
            for changed, says in (
                ((), "--name = mine: is served on this"),
                (("--host", "0.0.0.0"), "set BIMODE_API_KEYS"),
            ):
                second = started(*words, *changed)
                assert second.returncode == 2 and says in second.stderr.splitlines()[-1], (
                    second.stderr[-3000:]
                )
            assert fetched(root) == "still here"
            assert running.interrupt(timeout=240) == 130
        assert fetched(root) == "still here"
        for _ in range(10):  # a busy machine may take longer than Serve waits
            apps = started("-c", "from ray import serve; print(*serve.status().applications)")
            if apps.stdout.split() == ["other"]:
                break
        assert apps.stdout.split() == ["other"], apps.stderr[-3000:]


def ask_text(client: Any, question: str) -> None:
    client.chat.completions.create(
        model="mine", max_tokens=8, messages=[{"role": "user", "content": question}]
    )
