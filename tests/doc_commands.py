"""The commands of README and docs, in order: `python -m tests.doc_commands` lists them, with the
reason why one is not run here; `--run` runs the others (make demo first; about ten minutes).
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

REPO = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (REPO / "docs").glob("*.md")))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(bimode [a-z]+ [^`]*[A-Z][^`]*)`")
PROGRAMS = re.compile(r"(make|bimode|python|\.venv/bin/python|curl|ray|umask|export|[A-Z_]+=\S+) ")
NOT_RUN = {
    r"HEAD|/shared/|bimode submit|\bray |RAY_": "needs a cluster",
    r"gpu\.lock": "needs a GPU",
    r"smollm2": "downloads 0.5 GB",
    r"make (env|test)": "run by itself",
    r"bimode scale": "needs a live run",
    r"0\.0\.0\.0|HOST|umask": "opens a port to the network",
}
STANDS_FOR = {
    "RECIPE": "pipelines/recipes/smoke.toml",
    "mine.toml": "pipelines/recipes/smoke.toml",
    "DIR ID": "runs/demo digits-eval-0-0",
    "DIR": "runs/docs",
    "RUN/": "runs/demo/",
    "--model M --data D": "--model runs/demo/bpo/model --data runs/demo --out runs/docs-evaluate",
    "--model M": "--model runs/demo/bpo/model",
    "KIND": "kill-rollout",
    "prove MODEL": "prove assets/tiny-base --max-model-len 256",
    "--rollouts N": "--rollouts 2",
}
SERVER = "bimode serve --model runs/demo/bpo/model"
HEALTH = "http://127.0.0.1:8000/health"
STARTS_S = 240.0


@dataclass(frozen=True, slots=True)
class Command:
    """A command as a page has it; `not_run` says why it is not run here, if so."""

    page: str
    text: str
    not_run: str

    @property
    def runnable(self) -> str:
        text = self.text
        for word, value in STANDS_FOR.items():
            text = text.replace(word, value)
        return text


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield the page and the text of each fenced block of `language`."""
    for page in PAGES:
        for _, name, text in FENCE.findall((REPO / page).read_text()):
            if name == language:
                yield page, text


def commands() -> Iterator[Command]:
    """Yield the commands of all pages, in order."""
    inline = dict.fromkeys(INLINE.findall((REPO / "README.md").read_text()))
    for page in PAGES:
        for text in (text for name, text in blocks("") if name == page):
            yield from commands_of(page, text)
        if page == "README.md":  # its table, before the pages that go on from such a run
            yield from (command_of(page, words) for words in inline)


def commands_of(page: str, text: str) -> Iterator[Command]:
    """Yield the commands of one block; lines up to END belong to one command."""
    lines = iter(text.splitlines())
    for line in lines:
        if not PROGRAMS.match(line) or line.startswith("bimode/"):
            continue
        if "<<END" in line:
            line = "\n".join([line, *takewhile(lambda each: each != "END", lines), "END"])
        yield command_of(page, re.split(r"\s{2,}# ", line)[0])


def command_of(page: str, words: str) -> Command:
    reasons = (why for pattern, why in NOT_RUN.items() if re.search(pattern, words))
    return Command(page, words, next(reasons, ""))


def run(command: Command) -> bool:
    """Run one command in the shell; a server until it has answered, a request on a server."""
    text = command.runnable
    if "serve" in text or "api_server" in text:
        return serves(text)
    if "curl" in text:
        [snippet] = [code for _, code in blocks("python") if "strip.png" in code]
        subprocess.run([sys.executable, "-c", snippet], cwd=REPO, check=True)
        try:
            return serves(SERVER, text)
        finally:
            (REPO / "strip.png").unlink()
    return subprocess.run(["bash", "-c", text], cwd=REPO).returncode == 0


def serves(text: str, request: str = "") -> bool:
    """Start a server, wait for its health, ask `request` of it, and stop it."""
    server = subprocess.Popen(["bash", "-c", f"exec env {text}"], cwd=REPO)
    try:
        if not healthy(server) or not request:
            return server.poll() is None
        done = subprocess.run(["bash", "-c", request], cwd=REPO, capture_output=True, text=True)
        print(done.stdout)
        return '"choices"' in done.stdout
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(120)


def healthy(server: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until and server.poll() is None:
        try:
            return bool(urlopen(HEALTH, timeout=5).status == 200)
        except (URLError, OSError):
            time.sleep(1)
    return False


def main() -> int:
    failed = []
    for command in commands():
        if command.not_run or "--run" not in sys.argv:
            print(f"{command.page}: {command.text.splitlines()[0]}  [{command.not_run or 'run'}]")
            continue
        print(f"== {command.page}: {command.runnable}", flush=True)
        if not run(command):
            failed.append(command)
    for command in failed:
        print(f"FAILED {command.page}: {command.runnable}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
