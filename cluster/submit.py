"""Submit a run as a Ray job to a running cluster.

The code is uploaded as the job's working directory; its dependencies are in the cluster's image.
The upload has no .git, so the git commit travels in an environment variable.
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

# Variables that Ray's client prefers to the address that it is given.
DASHBOARDS = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
ANSWER_S = 30.0
LAST_STATUS_S = 15.0
LAST_CHARS = 20_000  # of a log or an error page that are kept
UNKNOWN = 130  # exit code of a job that is no longer followed
TAGS = re.compile(r"(?s)<style.*?</style>|<[^<>]+>")  # of a proxy's error page
# They log every .gitignore of the checkout, twice, and how a connection was closed.
NOISY_LOGGERS = (
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)
LOCAL_DASHBOARD = "http://127.0.0.1:8265"
TOKEN_REFUSED = re.compile(r"(?i)auth.{0,100}token|token.{0,80}auth")
TOKEN_FIX = (
    "takes no job from this shell; where its nodes have a token, set RAY_AUTH_MODE=token and their"
    " RAY_AUTH_TOKEN"
)
AGENT_FIX = (
    "the head's agent did not start; where another Ray had its port, ray start"
    " --dashboard-agent-listen-port PORT"
)


class JobFailed(BimodeError):
    """A job failed, and its exit code is ours; or the job is no longer followed."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text, exit_code)
        self.text, self.exit_code = text, exit_code

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Submission:
    """The command of a job: ``python -m pipelines.STAGE RECIPE --out OUT FLAGS``.

    Example: ``Submission("run", Path("pipelines/recipes/smoke.toml"), "/shared/smoke")``.
    """

    stage: str
    recipe: Path
    out: str
    flags: tuple[str, ...] = ()

    def entrypoint(self) -> str:
        """The command line, relative to the code's root.

        Raises ConfigError for a path that the job could not see.
        """
        recipe = self.recipe.absolute().resolve()
        if not recipe.is_relative_to(ROOT):
            fix = f"the job sees only what is below {ROOT}; put it there"
            raise ConfigError("recipe", self.recipe, fix)
        if "://" not in self.out and not Path(self.out).is_absolute():
            fix = "a job needs an absolute path: a relative one vanishes with the job"
            raise ConfigError("--out", self.out, fix)
        name = str(recipe.relative_to(ROOT))
        if not is_uploaded(name):
            raise ConfigError("recipe", name, f"is not uploaded with the code; git add {name}")
        module = f"pipelines.{self.stage}"
        return shlex.join(["python", "-m", module, name, "--out", self.out, *self.flags])


def is_uploaded(path: str) -> bool:
    """Whether a relative path or pattern leads to a file that is uploaded with the code."""
    root = ROOT.resolve()
    uploaded = {root / place for file in shipped_files(ROOT) for place in (file, *file.parents)}
    matches = iglob(path, root_dir=ROOT, recursive=True)
    return any((ROOT / name).resolve() in uploaded for name in matches)


def dashboard(address: str) -> str:
    """Return the URL of the Ray dashboard: `--address`, else RAY_API_SERVER_ADDRESS or RAY_ADDRESS
    if it is an http URL, else the local one.

    Raises ConfigError for another scheme and for a credential in the URL.
    """
    if address:
        if not address.startswith(HTTP):
            fix = f"is the URL of a dashboard; write http://{address.rpartition('://')[2]}"
            raise ConfigError("--address", address, fix)
        refuse_secrets("--address", address)
        return address
    for name in DASHBOARDS:
        url = os.environ.get(name, "")
        if url.startswith(HTTP):
            refuse_secrets("RAY_ADDRESS", url)
            return url
    return LOCAL_DASHBOARD


def submit_and_follow(submission: Submission, address: str) -> None:
    """Submit the job and print its log until it ends. Ctrl-C stops following, not the job.

    Raises JobFailed unless the job succeeded.
    """
    entrypoint, url = submission.entrypoint(), dashboard(address)
    _check_responds(url)
    with _client_errors(url), shipped_copy(ROOT) as copy:
        client = _client(url)
        environment = {"working_dir": str(copy), "env_vars": {CODE_VERSION: code_version()}}
        job = client.submit_job(entrypoint=entrypoint, runtime_env=environment)
    print(f"job {job} on {url}: {entrypoint}", file=sys.stderr, flush=True)
    log: list[str] = []
    try:
        asyncio.run(_follow(client, job, log))
    except KeyboardInterrupt:
        raise _no_longer_followed(url, job) from None
    except (RuntimeError, OSError) as error:  # the log's connection is gone; the job may be running
        print(f"\n{error}", file=sys.stderr)
    try:
        status, info = _status(client, job), client.get_job_info(job)
    except (RuntimeError, OSError):
        lost = f"job {job}: {url} no longer answers; what was finished is kept"
        raise JobFailed(f"{lost}: submit again when it does") from None
    if not status.is_terminal():
        raise _no_longer_followed(url, job)
    if status.value != "SUCCEEDED":
        lines = (info.message or "").strip().splitlines() or ["no message"]
        code = info.driver_exit_code or 1
        why = lines[-1]
        if why in "".join(log):
            why = f"exit code {code}, as its log above says"
        how = f"ray job logs --address {url} {job}"
        raise JobFailed(f"job {job} {status.value.lower()}: {why} ({how})", code)


async def _follow(client: Any, job: str, log: list[str]) -> None:
    """Print the log as it grows and keep its end in `log`, which says why a job failed."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
        log[:] = ["".join([*log, lines])[-LAST_CHARS:]]


def _status(client: Any, job: str) -> Any:
    """The job's last status, which may come a moment after the end of its log."""
    until = time.monotonic() + LAST_STATUS_S
    status = client.get_job_status(job)
    while not status.is_terminal() and time.monotonic() < until:
        time.sleep(0.5)
        status = client.get_job_status(job)
    return status


def _no_longer_followed(url: str, job: str) -> JobFailed:
    follow = f"ray job logs --address {url} -f {job}"
    stop = f"ray job stop --address {url} {job}"
    how = f"follow it with {follow}, end it with {stop}"
    return JobFailed(f"no longer following; the job goes on: {how}", UNKNOWN)


@contextmanager
def _client_errors(url: str) -> Iterator[None]:
    """Turn an error of Ray's client into a ConfigError: it meets other servers and tokens, and
    uploads that are too large.
    """
    from ray.exceptions import RayError

    try:
        yield
    except ConnectionError:
        fix = "no Ray dashboard answers there; start one with ray start --head"
        raise ConfigError("--address", url, fix) from None
    except (RayError, RuntimeError, ValueError) as error:
        why = " ".join(TAGS.sub(" ", str(error)[:LAST_CHARS]).split())
        fix = f"the job was not taken: {why[:400]}"
        if TOKEN_REFUSED.search(why):
            fix = TOKEN_FIX
        elif "No available agent" in why:
            fix = AGENT_FIX
        raise ConfigError("--address", url, fix) from None


def _check_responds(url: str) -> None:
    """Raise ConfigError where `url` accepts a connection and sends nothing: Ray's client would wait
    for ever.
    """
    try:
        urlopen(url, timeout=ANSWER_S).close()
    except (OSError, ValueError, HTTPException) as error:
        # Ray's client meets every other error too, and `_client_errors` reports it.
        if isinstance(getattr(error, "reason", error), TimeoutError):
            seconds = f"says nothing for {ANSWER_S:.0f} s"
            fix = "give the dashboard's port, 8265 where the head was not told another"
            raise ConfigError("--address", url, f"{seconds}; {fix}") from None


def _client(url: str) -> Any:
    """A client of the dashboard at `url`, whatever the environment names."""
    from ray.job_submission import JobSubmissionClient

    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Without it Ray warns about each file that is not uploaded anyway.
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    named = {name: os.environ.pop(name) for name in DASHBOARDS if name in os.environ}
    try:
        return JobSubmissionClient(url)
    finally:
        os.environ.update(named)
