"""The code as working directory, the recipe as entrypoint: a run as a Ray job on a cluster that is already there.

Dependencies live in the cluster's image, code travels. The git commit is captured here, because the upload has no .git.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimode.errors import BimodeError, ConfigError
from cluster.environment import CODE_VERSION, code_version
from cluster.session import NOT_SHIPPED, ROOT

LOCAL_DASHBOARD = "http://127.0.0.1:8265"


class JobFailed(BimodeError):
    """A job that ended without success; its log was followed."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What the job runs: ``python -m pipelines.STAGE RECIPE --out OUT FLAGS``.

    Example: ``Submission("run", Path("pipelines/recipes/smoke.toml"), "/shared/smoke", ("--seed", "1"))``.
    """

    stage: str
    recipe: Path
    out: str
    flags: tuple[str, ...] = ()

    def entrypoint(self) -> str:
        """The job's command line, relative to the code's root. Raises ConfigError for what the job could not see."""
        if not self.recipe.absolute().resolve().is_relative_to(ROOT):
            raise ConfigError("recipe", self.recipe, f"the job sees only what is below {ROOT}; put it there")
        if "://" not in self.out and not Path(self.out).is_absolute():
            raise ConfigError("--out", self.out, "a job needs an absolute path: a relative one vanishes with the job")
        recipe = self.recipe.absolute().resolve().relative_to(ROOT)
        return shlex.join(["python", "-m", f"pipelines.{self.stage}", str(recipe), "--out", self.out, *self.flags])


def dashboard(address: str) -> str:
    """`--address`, else what Ray's own tools read, else the dashboard of this machine."""
    named = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""
    return named if named.startswith(("http://", "https://")) else LOCAL_DASHBOARD


def submit_and_follow(submission: Submission, address: str) -> int:
    """Submits, prints the log as it grows, returns 0 when the job succeeded. Raises JobFailed.

    Ctrl-C stops following, not the job.
    """
    from ray.job_submission import JobStatus

    entrypoint, url = submission.entrypoint(), dashboard(address)
    client = _client(url)
    job = client.submit_job(
        entrypoint=entrypoint,
        runtime_env={
            "working_dir": str(ROOT),
            "excludes": list(NOT_SHIPPED),
            "env_vars": {CODE_VERSION: code_version()},
        },
    )
    print(f"job {job} on {url}: {entrypoint}", file=sys.stderr, flush=True)
    try:
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        how = f"ray job logs --address {url} -f {job}; ray job stop --address {url} {job}"
        print(f"\nno longer following; the job goes on: {how}", file=sys.stderr)
        return 0
    status, info = client.get_job_status(job), client.get_job_info(job)
    if status is not JobStatus.SUCCEEDED:
        last = (info.message or "").strip().splitlines() or ["no message"]
        raise JobFailed(f"job {job} {status.value.lower()}: {last[-1]} (ray job logs --address {url} {job})")
    return 0


def _client(url: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(url)
    except ConnectionError:
        raise ConfigError("--address", url, "no Ray dashboard answers there; start one with ray start --head") from None


async def _follow(client: Any, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
