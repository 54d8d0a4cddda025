"""A Ray cluster of one or two nodes started with `ray start`, on ports of its own; ends exactly
what it started.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

from tests.ports import free_ports

REPO = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


class HandStarted:
    """`with HandStarted(second_node='{"rollout": 1}') as cluster: cluster.dashboard`."""

    def __init__(self, cpus: int = 4, resources: str = "{}", second_node: str = "") -> None:
        self.cpus, self.resources, self.second_node = cpus, resources, second_node
        self.temp = tempfile.mkdtemp(prefix="rc-", dir="/tmp")  # short: socket paths have a limit
        self.token = secrets.token_hex(32)
        self.gcs, self.dashboard_port, self.client = free_ports(3)
        self.dashboard = f"http://127.0.0.1:{self.dashboard_port}"

    def environment(self) -> dict[str, str]:
        """For commands that talk to this cluster."""
        ours = {"RAY_API_SERVER_ADDRESS": self.dashboard, "RAY_USAGE_STATS_ENABLED": "0"}
        ours |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }  # its own, on every node and client
        return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | ours

    def __enter__(self) -> HandStarted:
        try:
            self._start(
                "--head",
                f"--port={self.gcs}",
                f"--dashboard-port={self.dashboard_port}",
                "--include-dashboard=true",
                f"--ray-client-server-port={self.client}",
                f"--temp-dir={self.temp}",
                f"--resources={self.resources}",
            )
            if self.second_node:
                self._start(f"--address=127.0.0.1:{self.gcs}", f"--resources={self.second_node}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, *words: str) -> None:
        agents = free_ports(3)
        names = ("dashboard-agent-listen", "metrics-export", "runtime-env-agent")
        ports = [f"--{name}-port={port}" for name, port in zip(names, agents, strict=True)]
        common = [
            "--node-ip-address=127.0.0.1",
            f"--num-cpus={self.cpus}",
            "--object-store-memory=300000000",
            *ports,
        ]
        done = subprocess.run(
            [RAY, "start", *words, *common, "--disable-usage-stats"],
            cwd=REPO,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def __exit__(self, *_: object) -> None:
        for _ in range(2):  # what the first round's victims were still starting
            ours = self.left()
            for process in ours:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(ours, timeout=10)
        shutil.rmtree(self.temp, ignore_errors=True)

    def _is_ours(self, process: psutil.Process) -> bool:
        """By the token in its environment, which every process of this cluster inherits and no
        other has.
        """
        try:
            return (
                process.pid != os.getpid() and process.environ().get("RAY_AUTH_TOKEN") == self.token
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def left(self) -> list[psutil.Process]:
        """Processes of this cluster that run now."""
        return [
            p
            for p in psutil.process_iter()
            if p.status() != psutil.STATUS_ZOMBIE and self._is_ours(p)
        ]
