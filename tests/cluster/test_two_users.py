"""A second user of the machine reads neither token, nor prompts, nor weights of the first; and no
other machine reaches it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest

REPO = Path(__file__).resolve().parents[2]
NOBODY = 65534
PROMPT, IN_ENVIRONMENT = "PLANTED-PROMPT", "PLANTED-VARIABLE"
pytestmark = pytest.mark.ray

# What another user can find out: which files it opens, which sockets answer, what they say without
# a token.
LOOK = r"""
import json, os, socket, stat, sys
asked = json.loads(sys.stdin.read())
seen = {"opened": [], "listed": [], "connected": [], "said": ""}
for root in asked["roots"]:
    for folder, folders, files in os.walk(root):
        seen["listed"].append(folder)
        for name in files:
            path = os.path.join(folder, name)
            try:
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    socket.socket(socket.AF_UNIX).connect(path)
                    seen["connected"].append(path)
                else:
                    open(path, "rb").close()
                    seen["opened"].append(path)
            except OSError:
                pass
for pid in asked["pids"]:
    for name in ("environ", "maps", "mem", "fd", "cwd", "root"):
        try:
            path = f"/proc/{pid}/{name}"
            os.listdir(path) if name in ("fd", "cwd", "root") else open(path, "rb").read(1)
            seen["opened"].append(path)
        except OSError:
            pass
    seen["said"] += open(f"/proc/{pid}/cmdline").read()
for port in asked["ports"]:
    for request in (b"GET /metrics HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"):
        try:
            with socket.create_connection(("127.0.0.1", port), 2) as peer:
                peer.settimeout(1)
                peer.sendall(request)
                while data := peer.recv(65536):
                    seen["said"] += data.decode("latin-1")
        except OSError:
            pass
print(json.dumps(seen))
"""


@dataclass
class First:
    """The first user's folder, and the processes and sockets of its session."""

    folder: Path
    logs: Path
    pids: list[int]
    listening: list[Any]  # of psutil

    @property
    def token(self) -> Path:
        return self.folder / "home" / ".ray" / "auth_token"


@pytest.fixture(scope="module")
def first(tiny_text: Path) -> Iterator[First]:
    """A folder that all may enter, as homes and scratch disks are; short, since it holds Ray's
    sockets.
    """
    folder = Path(tempfile.mkdtemp(prefix="u-", dir="/tmp"))
    folder.chmod(0o755)
    for name, mode in (("home", 0o755), ("t", 0o1777)):
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    unset = ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "t"),
        "PYTHONPATH": str(REPO),
    }
    environment |= {"AWS_SECRET_ACCESS_KEY": IN_ENVIRONMENT}
    words = [
        sys.executable,
        str(Path(__file__).with_name("first_user.py")),
        str(folder),
        str(tiny_text),
        PROMPT,
    ]
    process = subprocess.Popen(
        words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO, text=True
    )
    try:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("{"):
            assert line, "it ended before it was ready"
        found = json.loads(line)
        pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert found["actor"] in pids
        pids.append(process.pid)
        listening = [
            c for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in pids
        ]
        yield First(folder, Path(found["logs"]), pids, listening)
    finally:
        process.communicate("", timeout=60)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def second(first: First) -> dict[str, Any]:
    """What user `nobody` finds."""
    if os.geteuid() != 0:
        pytest.skip("becomes another user, as only root may")
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("needs a Python that every user may run")
    asked = {
        "roots": [str(first.folder), "/dev/shm"],
        "pids": first.pids,
        "ports": [connection.laddr.port for connection in first.listening],
    }
    done = subprocess.run(
        [python, "-c", LOOK],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd="/",
        env={},
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_second_user_reads_no_token_log_object_or_environment(
    first: First, second: dict[str, Any]
) -> None:
    """Ray's session was open to all, and its token too, which is the right to run code as the
    first.
    """
    ours = {str(path) for path in first.folder.rglob("*") if path.is_file()}
    others = ours & set(second["opened"])
    allowed = str(first.folder / "open")
    assert [path for path in others if not path.startswith(allowed + "/")] == []
    assert not [path for path in second["opened"] if path.startswith("/proc/")]
    assert second["connected"] == []
    entered = {path.removeprefix(f"{first.folder}/").split("/")[0] for path in second["listed"]}
    assert {"t", "home", "open"} <= entered, "it did look"
    logs = [path for path in second["listed"] if "session_" in path or path.endswith(".ray")]
    assert logs == []


def test_the_second_user_reads_a_run_as_the_umask_says(
    first: First, second: dict[str, Any]
) -> None:
    """Under 022 all of it, as documented; under 077 nothing, not even names."""
    for name in (
        "manifest.json",
        "base/model.safetensors",
        "bpo/ledger/moves.jsonl",
        "bpo/rollouts.parquet",
    ):
        assert (first.folder / "closed" / name).is_file()
        assert str(first.folder / "open" / name) in second["opened"]
        assert str(first.folder / "closed" / name) not in second["opened"]
    inside = list((first.folder / "closed").rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in inside} == {0}


def test_nothing_that_all_may_see_tells_a_secret(first: First, second: dict[str, Any]) -> None:
    """Command lines, and what Ray's ports say to a client without a token."""
    token = first.token.read_text()
    said = second["said"]
    assert "raylet" in said and "HTTP/1." in said, "it did look"
    assert token not in said and IN_ENVIRONMENT not in said
    assert said.count(PROMPT) == 1, "the argument of this test's own program"


def test_shared_memory_is_closed(first: First) -> None:
    """Ray's objects lie there, and weights that a learner lends."""
    found = set()
    for pid in first.pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(file)
            if target.startswith("/dev/shm/"):
                found.add(stat.S_IMODE(os.stat(file).st_mode) & 0o077)
    assert found == {0}


def test_rays_files_hold_no_secret_of_the_environment(first: First) -> None:
    """Logs, recipes and manifests are what people send each other."""
    held = IN_ENVIRONMENT.encode()
    files = [path for path in first.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len([path for path in files if path.is_relative_to(first.logs)]) > 5
    assert [path for path in files if held in path.read_bytes()] == []
    token = first.token.read_bytes()
    assert [path for path in files if token in path.read_bytes()] == [first.token]


def test_ray_listens_on_this_machine_alone(first: First) -> None:
    """Its processes listened on every address, the metrics without asking for a token."""
    addresses = {ip_address(connection.laddr.ip) for connection in first.listening}
    assert len(first.listening) >= 5
    assert all((getattr(a, "ipv4_mapped", None) or a).is_loopback for a in addresses), addresses
