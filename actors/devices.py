"""Whether this process computes on a GPU: what Ray has given it, held against what torch sees."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import torch

from bimode.errors import ConfigError

COMPILERS = ("cc", "gcc", "clang")


def on_gpu(key: str) -> bool:
    """Whether this process computes on a GPU.

    Raises ConfigError of `key`, a number of GPUs in the recipe, if Ray has given this process a GPU
    that torch does not see: it would compute on the CPU without a word.
    """
    is_seen = torch.cuda.is_available()
    gpus = gpus_given()
    if gpus and not is_seen:
        build = f"torch {torch.__version__} (CUDA {torch.version.cuda})"
        fix = "install the torch build that fits the node's driver, or set it to 0"
        raise ConfigError(key, f"{gpus:g}", f"{build} sees no GPU on this node: {_reason()}; {fix}")
    return is_seen


def gpus_given() -> float:
    """How many GPUs Ray has given this process; 0 where it is no worker of Ray's."""
    if not ray.is_initialized():
        return 0.0
    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return 0.0
    return float(context.get_assigned_resources().get("GPU", 0.0))


def check_role(role: str, options: Mapping[str, Any]) -> None:
    """Starts a process with ray.remote's `options`, as an actor of `role`, and checks its GPU.

    Done before a stage starts: an error in an actor comes after minutes of loading, and Ray Train
    forms the group of its workers before any code of ours runs. Raises ConfigError as `CHECKS`.
    """
    ray.get(ray.remote(max_calls=1)(_check_here).options(**options).remote(role))


def _check_here(role: str) -> None:
    for check in CHECKS[role]:
        check(f"cluster.{role}_gpus")


def check_compiler(key: str) -> None:
    """Raises ConfigError of `key` where Triton could not compile; vLLM samples with it on a GPU."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    missing = []
    if not any(map(shutil.which, COMPILERS)):
        missing.append(f"a C compiler ({', '.join(COMPILERS)})")
    if not headers.is_file():
        missing.append(f"Python's headers ({headers})")
    if missing:
        fix = f"vLLM needs {' and '.join(missing)} on a node with GPUs; add them to its image"
        raise ConfigError(key, f"{gpus_given():g}", fix)


def _reason() -> str:
    """What torch says of the GPUs that it does not see."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return "no reason given"


CHECKS: Mapping[str, tuple[Callable[[str], object], ...]] = {
    "rollout": (on_gpu, check_compiler),
    "learner": (on_gpu,),
}
