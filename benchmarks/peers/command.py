"""What the benchmarks have in common on the command line: threads, rounds, where TRL lives; and
errors as one line.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers.talk import Side, SideError
from bimode.errors import BimodeError, ConfigError
from cluster.environment import worker_env

TRL = "1.16"


@dataclass(frozen=True, slots=True)
class Options:
    """`threads` of torch in every process of both sides; `trl_python` is the interpreter of TRL's
    side.
    """

    threads: int
    rounds: int
    trl_python: str


def run(description: str, rounds: int, benchmark: Callable[[Options, Path], None]) -> None:
    """Parses the command line and runs `benchmark` in a folder that is gone afterwards. Exits with
    one line on an error.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--threads",
        type=_positive,
        default=1,
        help="torch threads of each process, both sides alike",
    )
    parser.add_argument("--rounds", type=_positive, default=rounds, help="timed steps of each side")
    parser.add_argument(
        "--trl-python", default=sys.executable, help=f"an interpreter with trl {TRL}"
    )
    parser.add_argument(
        "--make-env",
        type=Path,
        metavar="DIR",
        help=f"make an environment of trl {TRL} there, and use it",
    )
    found = parser.parse_args()
    os.environ |= worker_env(found.threads)  # this process makes the model, with the same libraries
    with errors_in_one_line():
        python = make_env(found.make_env) if found.make_env else found.trl_python
        check_trl(python)
        with TemporaryDirectory() as folder:
            benchmark(Options(found.threads, found.rounds, python), Path(folder))


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the process with one line and a code where the block raises an error of ours, or is
    interrupted.
    """
    try:
        yield
    except SideError as error:
        sys.exit(f"error: {error}")
    except BimodeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def start(name: str, module: str, words: list[str], options: Options, folder: Path) -> Side:
    """A side under the environment of our workers; TRL's runs on its own interpreter."""
    peer = name == "TRL"
    env = dict(os.environ)
    if peer:
        del env["LOCAL_RANK"]  # DeepSpeed wants one; accelerate takes it for a launcher
    return Side(
        name,
        options.trl_python if peer else sys.executable,
        module,
        words,
        env,
        folder / f"{name}.log",
    )


def check_trl(python: str) -> None:
    """Raises ConfigError unless `python` has the TRL that the comparison is with."""
    code = "import importlib.metadata as m; print(m.version('trl'))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(
            "--trl-python", python, f"{error.strerror}; name an interpreter"
        ) from None
    found = done.stdout.strip() or "none"
    if not found.startswith(f"{TRL}."):
        raise ConfigError(
            "--trl-python",
            python,
            f"has trl {found}, not {TRL}; name another, or make one with --make-env DIR",
        )


def make_env(folder: Path) -> str:
    """The interpreter of an environment with our torch and the peer's own choice of everything
    else.
    """
    torch = version("torch").partition("+")[0]
    return install(folder, [f"torch=={torch}", f"trl=={TRL}.*", "safetensors", "numpy"])


def install(folder: Path, wanted: list[str]) -> str:
    """The interpreter of an environment in `folder`, made if absent, with `wanted` in it. Raises
    ConfigError where pip fails.
    """
    python = folder.resolve() / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    )
    if done.returncode:
        raise ConfigError("--make-env", folder, f"pip could not install {' '.join(wanted)} there")
    return str(python)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return int(text)
