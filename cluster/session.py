"""One Ray session for a run: a private local instance, or the cluster that a job or RAY_ADDRESS
names.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from bimode.config.recipe import ClusterConfig
from bimode.errors import ConfigError, check_name
from cluster.checks import check_address, check_home, temporary_folder
from cluster.console import native_stderr_in
from cluster.daemons import ended_with
from cluster.environment import worker_env
from cluster.nodes import watched_nodes
from cluster.shipping import shipped_copy

ROOT = Path(__file__).resolve().parent.parent
DRIVER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": (
        "0"
    ),  # Ray's coming default; without it every start prints a warning
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # stages show their own
    "RAY_TQDM": "0",
    # A line of ours reports these: by the code that has lost a worker, by `ended_with`, by
    # `watched_nodes`.
    "RAY_DEDUP_LOGS_SKIP_REGEX": (
        "A worker died or was killed while executing a task"
        "|Raylet is terminated|has been marked dead because the detector"
    ),
}
SEGMENT = re.compile(r"/dev/shm/psm_\w+")  # as Python names what processes share
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray is on no address but 127.0.0.1
# Ray frees what nobody refers to once a second: all buckets of a new model would be in memory, and
# the store full, by then.
SYSTEM = {"free_objects_batch_size": 1}


def prepare_process(config: ClusterConfig) -> None:
    """Gives this process the environment of the workers; what the user has set stays."""
    for name, value in (worker_environment(config) | DRIVER_ENV).items():
        os.environ.setdefault(name, value)


def worker_environment(config: ClusterConfig) -> dict[str, str]:
    """`worker_env` for the roles of `config`."""
    return worker_env(config.threads, gpu=config.rollout_gpus + config.learner_gpus > 0)


def in_job() -> bool:
    """True where a Ray job submission started this process."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def joins_cluster() -> bool:
    """True where `connect` joins a cluster that was there before, and that others may be using."""
    return in_job() or bool(os.environ.get("RAY_ADDRESS"))


def output_directory(out: str) -> Path:
    """`--out` as an absolute path.

    Raises ConfigError for an empty one, for a relative path inside a job (it would vanish with the
    job's unpacked copy), for a URI that is not `file://`, and as `check_name` does.
    """
    scheme, separator, rest = out.partition("://")
    if separator and scheme != "file":
        raise ConfigError(
            "--out",
            out,
            "only file systems for now; mount it on every node and give the absolute path",
        )
    if not (rest if separator else out).strip():
        raise ConfigError("--out", repr(out), "it is empty; name a directory")
    path = Path(rest if separator else out)
    check_name("--out", path.absolute())
    if in_job() and not path.is_absolute():
        raise ConfigError(
            "--out", out, "inside a job it must be absolute: a relative one vanishes with the job"
        )
    return path.absolute()


@contextmanager
def connect(config: ClusterConfig) -> Iterator[None]:
    """A connected Ray; on the way out nothing that this call started is left running.

    Inside a job, or with RAY_ADDRESS set, it is that cluster, with the code as working directory.
    Otherwise it is a local instance with `num_cpus` logical CPUs, which offers the custom resources
    that the recipe names. SIGTERM and SIGHUP are Ctrl-C.
    """
    import ray

    prepare_process(config)
    if joins_cluster():
        with _on_cluster(ray, config):
            yield
        return
    before = set(_children(recursive=True))
    start_local(
        worker_environment(config) | {"PYTHONPATH": _python_path()},
        num_cpus=config.num_cpus,
        resources={
            name: 1.0 for name in (config.rollout_resource, config.learner_resource) if name
        },
        object_store_memory=config.object_store_mb << 20,
        logging_level=logging.ERROR,
    )
    ours = [
        child for child in _children(recursive=True) if child not in before
    ]  # nobody finds those of a raylet that has died
    _terminate_as_interrupt()
    try:
        with ended_with(ours), native_stderr_in(log_folder()):
            yield
    finally:
        with _uninterrupted():
            tree = ours + [
                grandchild for child in ours for grandchild in _children(child, recursive=True)
            ]
            segments = segments_of(tree)
            ray.shutdown()
            _end(tree)
            for segment in segments:
                segment.unlink(missing_ok=True)


def start_local(environment: Mapping[str, str], **settings: Any) -> None:
    """`ray.init` of an instance of its own, whose workers have `environment`. Ray gives a node 30 s
    to start, which a busy machine may not keep: then once more. No other user may read its token,
    its logs, or its sockets, and no other machine reaches it.
    """
    import ray

    check_home()
    folder = str(temporary_folder())
    environment = {**environment, **LOOPBACK, "RAY_TMPDIR": folder, "VLLM_RPC_BASE_PATH": folder}
    for is_last in (False, True):
        before = set(_children(recursive=True))
        try:
            # a terminal that is gone sends SIGHUP to all of them; it is for this process to end
            # them
            with _inherited(environment), _on_loopback(), _ignored(signal.SIGHUP):
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    _system_config=SYSTEM,
                    **settings,
                )
            return
        except Exception as error:  # Ray raises nothing narrower
            if "timed out during startup" not in str(
                error
            ):  # a session that was there before lives on
                raise
            started = [child for child in _children(recursive=True) if child not in before]
            ray.shutdown()
            _end(started)
            if is_last:
                raise


@contextmanager
def _on_loopback() -> Iterator[None]:
    """LOOPBACK for this process, which may have imported Ray before."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _inherited(environment: Mapping[str, str]) -> Iterator[None]:
    """What is started here has `environment`. As a `runtime_env` Ray would give it to none of the
    workers that it keeps ready.
    """
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _on_cluster(ray: Any, config: ClusterConfig) -> Iterator[None]:
    check_address(os.environ.get("RAY_ADDRESS", ""))
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    given = job.get("env_vars") or {}
    runtime_env: dict[str, Any] = {
        "env_vars": {
            name: value for name, value in worker_environment(config).items() if name not in given
        }
    }
    with nullcontext() if in_job() else shipped_copy(ROOT) as code:
        if code:
            runtime_env["working_dir"] = str(code)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime_env)
    _terminate_as_interrupt()
    try:
        _unpack_everywhere(ray)
        with watched_nodes():
            yield
    finally:
        with _uninterrupted():
            ray.shutdown()


def _unpack_everywhere(ray: Any) -> None:
    """Puts the code on every node before anything starts, and goes back into it.

    Nodes on one machine share its folder: a node that unpacks later replaces it and leaves earlier
    processes in a deleted directory, of which MKL dies. The workers of this call end with it
    (`max_calls`), so none is left in one.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    touch = ray.remote(num_cpus=0, max_calls=1)(_pid)
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    nodes = [NodeAffinitySchedulingStrategy(node, soft=True) for node in alive]
    ray.get([touch.options(scheduling_strategy=node).remote() for node in nodes])
    if in_job():
        os.chdir(ROOT)


def log_folder() -> Path:
    """Return the log folder of the connected Ray session."""
    import ray

    return Path(ray._private.worker._global_node.get_logs_dir_path())


def _pid() -> int:
    return os.getpid()


def _python_path() -> str:
    """The code's root before whatever the user has, and then the working directory: workers import
    the same packages, and the same plug-ins, as this process.
    """
    own = (str(ROOT), os.environ.get("PYTHONPATH", ""), os.getcwd())
    return os.pathsep.join(filter(None, own))


def _terminate_as_interrupt() -> None:
    """SIGTERM as Ctrl-C: `ray.init` set it to print a stack and to kill Ray under a driver that
    still needs it.

    SIGHUP, of a terminal or a connection that is gone, too, unless `nohup` has it ignored.
    """
    with suppress(ValueError):  # not the main thread: signals do not come here
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, signal.default_int_handler)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keeps a second Ctrl-C, SIGTERM or SIGHUP from cutting the shutdown short."""
    with _ignored(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _ignored(*numbers: signal.Signals) -> Iterator[None]:
    """The signals are ignored in the block, and by the processes that are started there."""
    try:
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _children(process: Any = None, *, recursive: bool = False) -> list[Any]:
    import psutil

    with suppress(psutil.NoSuchProcess):
        return (process or psutil.Process()).children(recursive=recursive)
    return []


def segments_of(processes: Iterable[Any]) -> set[Path]:
    """Their named shared memory, as the queues of a served engine: it stays where who would remove
    it is killed with them.
    """
    found = set[Path]()
    for process in processes:
        with suppress(OSError):  # it has ended
            found.update(map(Path, SEGMENT.findall(Path(f"/proc/{process.pid}/maps").read_text())))
    return found


def _end(processes: list[Any], timeout_s: float = 5.0) -> None:
    """Waits for `processes` and kills those that stay: engines that a killed worker left behind."""
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=timeout_s)
