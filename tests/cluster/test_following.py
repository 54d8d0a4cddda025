"""What `bimode submit` says, and its exit code, when the end of a job cannot be seen. Ray's client
is replaced: a head that dies while it is asked cannot be had in a test.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray.job_submission import JobStatus

from bimode.errors import ConfigError
from cluster import submit
from cluster.submit import JobFailed, Submission, submit_and_follow
from pipelines.__main__ import exit_code

URL = "http://head:8265"
RUN = Submission("run", Path("pipelines/recipes/smoke.toml"), "/shared/smoke")


class Client:
    """Takes a job; then its log and its status are what the test wants."""

    def __init__(self, log: BaseException | None, status: JobStatus | Exception) -> None:
        self.log, self.status = log, status

    def submit_job(self, **_: Any) -> str:
        return "job-1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "a line\nerror: cur"
        if self.log is not None:
            raise self.log
        yield "ate: why\n"

    def get_job_status(self, job: str) -> JobStatus:
        if isinstance(self.status, Exception):
            raise self.status
        return self.status

    def get_job_info(self, job: str) -> SimpleNamespace:
        message = (
            "Job entrypoint command failed with exit code 75, last available logs:\nsome"
            " line\nerror: curate: why"
        )
        return SimpleNamespace(message=message, driver_exit_code=75)


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A submission to such a client."""

    def follow(log: BaseException | None, status: JobStatus | Exception) -> None:
        monkeypatch.setattr(submit, "_client", lambda url: Client(log, status))
        submit_and_follow(RUN, URL)

    return follow


def test_a_job_that_is_left_has_not_succeeded(
    followed: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is it said to be over: `interrupted: nothing is left running` came after it."""
    followed(None, JobStatus.SUCCEEDED)
    capsys.readouterr()
    monkeypatch.setattr(
        submit, "_client", lambda url: Client(KeyboardInterrupt(), JobStatus.RUNNING)
    )
    assert exit_code(["submit", str(RUN.recipe), "--out", RUN.out, "--address", URL]) == 130
    [job, line] = capsys.readouterr().err.splitlines()
    assert job.startswith("job job-1 on ") and line.startswith(
        "error: no longer following; the job goes on: follow it with ray job"
    )


def test_a_failure_is_said_once_and_ends_as_the_job_did(followed: Any) -> None:
    """The log that was followed says it; only where that broke off it is said again."""
    with pytest.raises(
        JobFailed, match="job job-1 failed: exit code 75, as its log above says"
    ) as failed:
        followed(None, JobStatus.FAILED)
    assert failed.value.exit_code == 75 and pickle.loads(pickle.dumps(failed.value)).exit_code == 75
    with pytest.raises(JobFailed, match="job job-1 stopped: error: curate: why"):
        followed(RuntimeError("connection closed"), JobStatus.STOPPED)


def test_a_head_that_is_gone_is_one_line(followed: Any) -> None:
    with pytest.raises(
        JobFailed, match=f"job job-1: {URL} no longer answers; what was finished is kept"
    ):
        followed(RuntimeError("connection closed"), requests.ConnectionError("a hundred lines"))


def test_a_port_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another service's, or one behind a firewall: Ray's client waits for ever, without a word."""
    monkeypatch.setattr(submit, "ANSWER_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            ConfigError,
            match=f"--address = {url}: says nothing for 0 s; give the dashboard's port, 8265",
        ):
            submit_and_follow(RUN, url)


@pytest.mark.parametrize(
    ("answer", "fix"),
    [
        (
            "401: InvalidAuthToken: the authentication token is incorrect. Ensure ...",
            "where its nodes have a token, set RAY_AUTH_MODE",
        ),
        (
            "500: No available agent to submit job, please try again later..",
            "ray start --dashboard-agent-listen-port",
        ),
    ],
)
def test_a_head_that_takes_no_job_is_told_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, answer: str, fix: str
) -> None:
    """Later it takes none either: two Rays of one machine want the same port for their agents."""

    def refused(url: str) -> Client:
        raise RuntimeError(f"Request failed with status code {answer}")

    monkeypatch.setattr(submit, "_client", refused)
    with pytest.raises(ConfigError, match=fix):
        submit_and_follow(RUN, URL)


def test_what_ray_tells_of_each_submission_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen lines on .gitignore files stood before the job's name."""
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda url: url)
    monkeypatch.setattr(os, "environ", {})
    assert get_runtime_env_default_excludes(), "each would be a warning"
    assert submit._client(URL) == URL and get_runtime_env_default_excludes() == []
    assert not any(
        logging.getLogger(name).isEnabledFor(logging.INFO) for name in submit.NOISY_LOGGERS
    )
