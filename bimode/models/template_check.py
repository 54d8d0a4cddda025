"""A foreign chat template is rendered once in a child with limits before this process renders it.

transformers renders in Jinja's sandbox: a template reaches no object of Python, but may loop for
minutes or write gigabytes.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from bimode.errors import ConfigError
from bimode.models.families import FAMILIES
from bimode.models.template import chat_template
from bimode.modes import TEMPLATE_WORDS

SECONDS = 5  # of CPU
MEMORY = 1 << 30  # bytes beside what the child has before
KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # by somebody else; the limit of CPU sends SIGXCPU
START_S = 120.0  # of a busy machine, the child's imports included
TEXT = "What is it?"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
OURS = {chat_template(family.image) for family in FAMILIES.values()}
PART = {"type": "text", "text": TEXT}
CONTENTS = (TEXT, [PART], [{"type": "image"}, PART])


def check_templates(path: Path, *speakers: Any) -> None:
    """Check the chat templates of tokenizers and processors of the model in `path`.

    Raises ConfigError of `model` for one that cannot be rendered within the limits.
    """
    for speaker in speakers:
        found = getattr(speaker, "chat_template", None) or ()
        for template in found.values() if isinstance(found, dict) else filter(None, [found]):
            if isinstance(template, str) and template in OURS:
                continue
            problem = _problem(template) if isinstance(template, str) else "is no text"
            if problem:
                fix = f"its chat template {problem}; replace it by one of this model"
                raise ConfigError("model", path, fix)


@lru_cache
def _problem(template: str) -> str:
    """Returns what is wrong with a template, in words; "" for a sound one."""
    words = [sys.executable, "-m", "bimode.models.template_check"]
    asked = json.dumps({"template": template, "seconds": SECONDS, "memory": MEMORY})
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            words, input=asked, capture_output=True, text=True, cwd=root, timeout=START_S
        )
    except subprocess.TimeoutExpired:
        return f"is not rendered within {START_S:.0f} s"
    if done.returncode in KILLED:
        raise RuntimeError("the check of a chat template was killed: is the memory used up?")
    if done.returncode < 0:  # by the limit of CPU, or where memory is short
        return f"is not rendered within {SECONDS} s"
    if done.returncode:
        raise RuntimeError(f"the check of a chat template did not start: {done.stderr[-400:]}")
    return str(json.loads(done.stdout.splitlines()[-1]))


def _serve() -> None:
    """Render the template from stdin in this child process and print the problem as one JSON
    string; "" if it renders.
    """
    asked = json.loads(sys.stdin.read())
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + asked["seconds"]
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + asked["memory"]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    problems = []
    try:
        compiled = sandbox().from_string(asked["template"])
        for content, mode in product(CONTENTS, TEMPLATE_WORDS.values()):
            problems.append(_render(compiled, content, mode))
    except MemoryError:
        problems = [f"is not rendered within {asked['memory'] >> 20} MiB"]
    except Exception as error:  # Jinja raises whatever an expression of a template does
        problems = [f"cannot be read ({' '.join(str(error).split())[:200]})"]
    print(json.dumps(problems[0] if all(problems) else ""))


def sandbox() -> Any:
    """Returns the environment in which transformers renders, without the second that it imports."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which marks what an assistant says."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = time.strftime
    return environment


def _render(compiled: Any, content: Any, mode: str) -> str:
    """Returns why one conversation cannot be rendered; a template need not know every kind."""
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": TEXT if isinstance(content, str) else [PART]},
        {"role": "user", "content": content},
    ]
    try:
        for turns in (messages[:1], messages):
            compiled.render(
                messages=turns, add_generation_prompt=True, thinking_mode=mode, tools=None, **TOKENS
            )
    except MemoryError:
        raise
    except Exception as error:
        return f"cannot be rendered ({' '.join(str(error).split())[:200]})"
    return ""


if __name__ == "__main__":
    _serve()
