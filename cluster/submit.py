"""The code as working directory, the recipe as entrypoint: a run as a Ray job on a cluster that is
already there.

Dependencies live in the cluster's image, code travels. The git commit is captured here, because the
upload has no .git.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import iglob
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from bimode.errors import BimodeError, ConfigError
from bimode.storage.uri_secrets import refuse_secrets
from cluster.checks import HTTP
from cluster.environment import CODE_VERSION, code_version
from cluster.session import ROOT
from cluster.shipping import shipped_copy, shipped_files

DASHBOARDS = (
    "RAY_API_SERVER_ADDRESS",
    "RAY_ADDRESS",
)  # of the environment; Ray's client prefers them to what it is told
ANSWER_S = 30.0
LAST_STATUS_S = 15.0
LAST_CHARS = 20_000  # of a log that are remembered
UNKNOWN = 130  # exit code: how the job ends is not known
TAGS = re.compile(r"(?s)<style.*?</style>|<[^<>]+>")  # of the page that a proxy answers with
# Of each .gitignore of the checkout, twice, and of how a connection was closed.
NOISY_LOGGERS = (
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)
LOCAL_DASHBOARD = "http://127.0.0.1:8265"


class JobFailed(BimodeError):
    """A job that ended without success, whose exit code is taken over; or one that is no longer
    followed.
    """

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text, exit_code)
        self.text, self.exit_code = text, exit_code

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Submission:
    """What the job runs: ``python -m pipelines.STAGE RECIPE --out OUT FLAGS``.

    Example: ``Submission("run", Path("pipelines/recipes/smoke.toml"), "/shared/smoke", ("--seed",
    "1"))``.
    """

    stage: str
    recipe: Path
    out: str
    flags: tuple[str, ...] = ()

    def entrypoint(self) -> str:
        """The job's command line, relative to the code's root. Raises ConfigError for what the job
        could not see.
        """
        if not self.recipe.absolute().resolve().is_relative_to(ROOT):
            raise ConfigError(
                "recipe", self.recipe, f"the job sees only what is below {ROOT}; put it there"
            )
        if "://" not in self.out and not Path(self.out).is_absolute():
            raise ConfigError(
                "--out",
                self.out,
                "a job needs an absolute path: a relative one vanishes with the job",
            )
        recipe = self.recipe.absolute().resolve().relative_to(ROOT)
        if not is_uploaded(str(recipe)):
            raise ConfigError("recipe", recipe, f"is not uploaded with the code; git add {recipe}")
        return shlex.join(
            ["python", "-m", f"pipelines.{self.stage}", str(recipe), "--out", self.out, *self.flags]
        )


def is_uploaded(path: str) -> bool:
    """Whether a relative path or pattern leads to a file that is uploaded with the code."""
    root, files = ROOT.resolve(), shipped_files(ROOT)
    uploaded = {root / place for file in files for place in (file, *file.parents)}
    return any(
        (ROOT / name).resolve() in uploaded for name in iglob(path, root_dir=ROOT, recursive=True)
    )


def dashboard(address: str) -> str:
    """`--address`, else what Ray's own tools read, else the dashboard of this machine. Raises
    ConfigError for another scheme.
    """
    if address and not address.startswith(HTTP):
        raise ConfigError(
            "--address",
            address,
            f"is the URL of a dashboard; write http://{address.rpartition('://')[2]}",
        )
    named = address or next(
        (url for name in DASHBOARDS if (url := os.environ.get(name, "")).startswith(HTTP)), ""
    )
    refuse_secrets("--address" if address else "RAY_ADDRESS", named)
    return named or LOCAL_DASHBOARD


def submit_and_follow(submission: Submission, address: str) -> None:
    """Submits, prints the log as it grows, returns when the job succeeded. Raises JobFailed.

    Ctrl-C stops following, not the job.
    """
    from ray.job_submission import JobStatus

    entrypoint, url = submission.entrypoint(), dashboard(address)
    _check_responds(url)
    with _answering(url), shipped_copy(ROOT) as copy:
        client = _client(url)
        environment = {"working_dir": str(copy), "env_vars": {CODE_VERSION: code_version()}}
        job = client.submit_job(entrypoint=entrypoint, runtime_env=environment)
    print(f"job {job} on {url}: {entrypoint}", file=sys.stderr, flush=True)
    printed: list[str] = []
    try:
        asyncio.run(_follow(client, job, printed))
    except KeyboardInterrupt:
        raise _cluster_lost(url, job) from None
    except (
        RuntimeError,
        OSError,
    ) as error:  # the connection to the log is gone; the job may be as it was
        print(f"\n{error}", file=sys.stderr)
    try:
        status, info = _status(client, job), client.get_job_info(job)
    except (RuntimeError, OSError):
        raise JobFailed(
            f"job {job}: {url} no longer answers; what was finished is kept: submit again when it"
            " does"
        ) from None
    if not status.is_terminal():
        raise _cluster_lost(url, job)
    if status is not JobStatus.SUCCEEDED:
        [*_, last] = (info.message or "").strip().splitlines() or ["no message"]
        code = info.driver_exit_code or 1
        why = f"exit code {code}, as its log above says" if last in "".join(printed) else last
        raise JobFailed(
            f"job {job} {status.value.lower()}: {why} (ray job logs --address {url} {job})", code
        )


def _status(client: Any, job: str) -> Any:
    """The job's last status; it may come a moment after the end of its log."""
    until = time.monotonic() + LAST_STATUS_S
    while not (status := client.get_job_status(job)).is_terminal() and time.monotonic() < until:
        time.sleep(0.5)
    return status


def _cluster_lost(url: str, job: str) -> JobFailed:
    how = (
        f"follow it with ray job logs --address {url} -f {job}, end it with ray job stop --address"
        f" {url} {job}"
    )
    return JobFailed(f"no longer following; the job goes on: {how}", UNKNOWN)


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """What Ray's client raises in the block is one line."""
    from ray.exceptions import RayError

    try:
        yield
    except ConnectionError:
        raise ConfigError(
            "--address", url, "no Ray dashboard answers there; start one with ray start --head"
        ) from None
    except (
        RayError,
        RuntimeError,
        ValueError,
    ) as error:  # another server, another token, an upload that is too large
        why = " ".join(TAGS.sub(" ", str(error)[:LAST_CHARS]).split())
        if re.search(r"(?i)auth.{0,100}token|token.{0,80}auth", why):
            fix = (
                "takes no job from this shell; where its nodes have a token, set"
                " RAY_AUTH_MODE=token and their RAY_AUTH_TOKEN"
            )
            raise ConfigError("--address", url, fix) from None
        if "No available agent" in why:
            fix = (
                "the head's agent did not start; where another Ray had its port, ray start"
                " --dashboard-agent-listen-port PORT"
            )
            raise ConfigError("--address", url, fix) from None
        raise ConfigError("--address", url, f"the job was not taken: {why[:400]}") from None


def _check_responds(url: str) -> None:
    """Raises ConfigError where `url` takes a connection and says nothing: Ray's client would wait
    for ever.
    """
    try:
        urlopen(url, timeout=ANSWER_S).close()
    except (
        OSError,
        ValueError,
        HTTPException,
    ) as error:  # any other Ray's client meets too, and `_answering` says it
        if isinstance(getattr(error, "reason", error), TimeoutError):
            fix = (
                f"says nothing for {ANSWER_S:.0f} s; give the dashboard's port, 8265 where the head"
                " was not told another"
            )
            raise ConfigError("--address", url, fix) from None


def _client(url: str) -> Any:
    """A client of the dashboard at `url`, whatever the environment names."""
    from ray.job_submission import JobSubmissionClient

    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault(
        "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", ""
    )  # a warning each of what is not uploaded anyway
    named = {name: os.environ.pop(name) for name in DASHBOARDS if name in os.environ}
    try:
        return JobSubmissionClient(url)
    finally:
        os.environ.update(named)


async def _follow(client: Any, job: str, printed: list[str]) -> None:
    """Prints the log as it grows; `printed` gets the end of it, which says why a job failed."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
        printed[:] = ["".join([*printed, lines])[-LAST_CHARS:]]
