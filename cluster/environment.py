"""Environment of Ray's worker processes. Settings that were run together on CPU; on a GPU vLLM
ignores the CPU ones.
"""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

from bimode.inputs.pictures import MAX_PIXELS
from bimode.storage.run_dir import digest_code

PACKAGES = ("bimode", "data_curation", "actors", "cluster", "pipelines")
CPU_ENV = {  # of a process that computes on the CPU
    # large tensors in huge pages: to touch them first takes longer than to compute them
    "THP_MEM_ALLOC_ENABLE": "1",
    # and what libraries allocate, as oneDNN its packed weights
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # vLLM compiles one small function: 3-20 s, and it takes a C++ compiler
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
}
CODE_VERSION = (  # set by `cluster.submit`: a job's copy of the code has no .git
    "BIMODE_CODE_VERSION"
)


def worker_env(threads: int = 1, gpu: bool = False) -> dict[str, str]:
    """Variables of a worker process: no hub, no telemetry, one engine per process, bounded
    threads.
    """
    env = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # also of loading from disk
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_MAX_IMAGE_PIXELS": str(
            MAX_PIXELS
        ),  # a second wall: `bimode.inputs.pictures` decodes for vLLM
        "VLLM_ENABLE_V1_MULTIPROCESSING": (
            "0"
        ),  # the engine lives in the worker's process (actors.rollout.vllm_engine)
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_DATA_LOG_LEVEL": (
            "CRITICAL"
        ),  # it tells every execution plan on the terminal, and what fails over pages
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": (
            "actors.serving.proxy_limits.limit_connections"
        ),
        "LOCAL_RANK": (
            "0"
        ),  # DeepSpeed wants one; an actor sees its own device only, and Ray Train sets its own
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
    }
    return env if gpu else env | CPU_ENV


def code_version() -> str:
    """The git commit of the code, `-dirty` if it was changed; inside a job the one that the
    submission captured.

    Where there is no git, as in a job that was submitted by hand, it is `files_version`.
    """
    if captured := os.environ.get(CODE_VERSION):
        return captured
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        return subprocess.run(
            ("git", *words), cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return files_version()


def files_version() -> str:
    """Equal code gives equal words, whatever is known of its history."""
    return f"files-{digest_code(*PACKAGES)}"


def version_line() -> str:
    """The project's version, the git commit, and the digest of the code."""
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    version = tomllib.loads(project.read_text())["project"]["version"]
    return f"bimode {version} ({code_version()}, {files_version()})"
