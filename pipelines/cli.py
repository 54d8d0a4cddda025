"""The command line: `bimode X` and `python -m pipelines.X` are the same thing. Imports nothing
heavy until it must.
"""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, get_args

import typer

from bimode.config.endpoint import DRAIN_S, MAX_REQUESTS, REQUEST_TIMEOUT_S, EndpointConfig
from bimode.errors import NOT_PERMITTED, BimodeError, ConfigError, one_of
from bimode.inputs.control_characters import printable
from bimode.storage.uri_secrets import refuse_secrets
from pipelines.saved_recipe import recipe_and_run, refuse_bare_name

INTERRUPTED = 130
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Curate, anneal and optimize models that decide when to think.",
)

RECIPE_HELP = "TOML file, e.g. pipelines/recipes/tiny.toml"
RecipePath = Annotated[
    Path, typer.Argument(metavar="RECIPE", callback=refuse_bare_name, help=RECIPE_HELP)
]
Out = Annotated[
    str,
    typer.Option("--out", metavar="DIR", help="run directory; made if absent, continued if not"),
]
SET_HELP = (
    "override a key (docs/recipe.md), e.g. --set bpo.steps=10"
    """ --set 'evaluate.modes=["auto"]'; repeatable"""
)
Set = Annotated[list[str], typer.Option("--set", metavar="A.B=C", help=SET_HELP)]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", help="override the recipe's seed, which is 0 where it has none"
    ),
]
MODES_HELP = (
    "of auto,thinking,non_thinking; the recipe's evaluate.modes by default, all three without a"
    " recipe"
)
ADDRESS_HELP = (
    "dashboard of the cluster; by default RAY_API_SERVER_ADDRESS or RAY_ADDRESS (http://...), else"
    " http://127.0.0.1:8265"
)
CHAOS_HELP = (
    "a fault drill: kill-rollout, stall-rollout, corrupt-weights, slow-sync, kill-learner or"
    " kill-driver"
)
EVALUATE_HELP = (
    "TOML file, or the directory of a run: by its own recipe; or give --model and --data, or all"
)
ID_HELP = "of a question or a row, as its source has it, its beginning, or a source reference"
NAME_HELP = (
    "of the model, and of its application on a cluster; by default the directory's, of"
    " RUN/bpo/model it is bpo"
)
LENGTH_HELP = (
    "tokens of prompt and response together, for which the engine needs memory; 0: all that the"
    " model's config allows"
)
HOST_HELP = (
    "0.0.0.0 opens it to the network, and needs BIMODE_API_KEYS=/path/of/a/file of lines NAME:KEY"
)
REQUESTS_HELP = "requests that run or wait; more are refused with 429"
TIMEOUT_HELP = "after which a request ends with 504"
DRAIN_HELP = (
    "how long SIGTERM waits for running requests, new ones get 503; exit code 0, or 143 if some"
    " were cut"
)
ORIGIN_HELP = (
    "web page that may use the endpoint from a browser, e.g. https://chat.example; repeatable"
)
NOTHING: list[str] = []


def main(command: str | None = None) -> None:
    """Runs the command line and exits; stage modules call it with their own name."""
    sys.exit(exit_code([*([command] if command else []), *sys.argv[1:]]))


def exit_code(arguments: list[str]) -> int:
    """0, or the code of what went wrong, which is said in one line on stderr."""
    try:
        _hold_no_secret(arguments)
        code = app(arguments, standalone_mode=False, prog_name="bimode") or 0
    except BimodeError as error:
        return _fail(str(error), error.exit_code)
    except PermissionError as error:
        return _fail(f"{error.filename or error}: {NOT_PERMITTED}", ConfigError.exit_code)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        return _fail(f"{error}: free some room on that disk; the same command continues", 1)
    except typer.TyperException as error:
        if not (message := error.format_message()):  # no arguments: typer has shown the help
            return error.exit_code
        where = getattr(error, "ctx", None)
        return _fail(
            f"{message.rstrip('.')}: see {where.command_path if where else 'bimode'} --help",
            error.exit_code,
        )
    if code == INTERRUPTED:  # how typer says that Ctrl-C was pressed
        return _fail(
            "interrupted: nothing is left running; the same command continues", INTERRUPTED
        )
    return int(code)


def _hold_no_secret(arguments: list[str]) -> None:
    """Raises ConfigError for a credential in an argument, which every user of the machine can
    read.
    """
    flag = "argument"
    for argument in arguments:
        refuse_secrets(flag, argument)
        flag = argument if argument.startswith("-") else "argument"


def _fail(message: str, code: int) -> int:
    print(printable("error: " + " ".join(message.split())), file=sys.stderr, flush=True)
    return code


def _run(
    stages: tuple[str, ...], recipe: Path, out: str, overrides: list[str], seed: int | None
) -> None:
    """Loads the recipe and runs `stages` of it; no stages means the recipe's own list."""
    with _timed():
        from cluster.session import output_directory
        from pipelines.harness import run_stages
        from pipelines.saved_recipe import load

        loaded = load(recipe, tuple(overrides), seed)
        run_stages(stages or loaded.stages, loaded, output_directory(out))
    if "evaluate" in (stages or loaded.stages):
        _show_result(out)


def _show_result(out: str) -> None:
    """The last lines of a command that evaluates, on stdout."""
    from cluster.session import output_directory
    from pipelines.report.summary import summary

    for line in summary(output_directory(out) / "evaluate"):
        print(line, flush=True)


@contextmanager
def _timed() -> Iterator[None]:
    """Says at the end what all of it took: the times of the stages leave out imports, and the start
    and the end of Ray.
    """
    started = time.monotonic()
    yield
    from pipelines.progress import log_line

    log_line(f"bimode: {time.monotonic() - started:.0f} s in all, with start-up")


def _show_version(wanted: bool) -> None:
    if wanted:
        import tomllib

        from cluster.environment import code_version, files_version

        project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())[
            "project"
        ]
        print(f"bimode {project['version']} ({code_version()}, {files_version()})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_show_version,
            help="show version, git commit, digest of the code",
        ),
    ] = False,
) -> None:
    """What stands before a command."""


@app.command()
def run(recipe: RecipePath, out: Out, set_: Set = NOTHING, seed: Seed = None) -> None:
    """All stages of the recipe, skipping those whose inputs and config are unchanged."""
    _run((), recipe, out, set_, seed)


@app.command()
def curate(recipe: RecipePath, out: Out, set_: Set = NOTHING, seed: Seed = None) -> None:
    """Questions in, tagged bi-mode Parquet out."""
    _run(("curate",), recipe, out, set_, seed)


@app.command()
def anneal(recipe: RecipePath, out: Out, set_: Set = NOTHING, seed: Seed = None) -> None:
    """Supervised training in both modes."""
    _run(("anneal",), recipe, out, set_, seed)


@app.command()
def bpo(
    recipe: RecipePath,
    out: Out,
    chaos: Annotated[str, typer.Option("--chaos", metavar="KIND", help=CHAOS_HELP)] = "",
    set_: Set = NOTHING,
    seed: Seed = None,
) -> None:
    """Bi-mode policy optimization: learns when to think."""
    _run(("bpo",), recipe, out, [*set_, *([_chaos(chaos)] if chaos else [])], seed)


def _chaos(kind: str) -> str:
    from bimode.config.recipe import Chaos

    return f"cluster.chaos={one_of('--chaos', kind, [known for known in get_args(Chaos) if known])}"


@app.command()
def evaluate(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", callback=refuse_bare_name, help=EVALUATE_HELP)
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="run directory; RECIPE's, where that is one"),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="M", help="any Hugging Face model directory")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="D", help="any curated data directory, or a run's"),
    ] = None,
    modes: Annotated[str, typer.Option("--modes", metavar="A,B", help=MODES_HELP)] = "",
    set_: Set = NOTHING,
    seed: Seed = None,
) -> None:
    """Three modes on held-out sources: accuracy, tokens, routing; before and after BPO."""
    overrides = [*set_, *([_modes(modes)] if modes else [])]
    if model is None and data is None:
        own, run = recipe_and_run(recipe, out)
        _run(("evaluate",), own, run, overrides, seed)
    elif model is None or data is None:
        raise ConfigError(
            "--data" if data is None else "--model",
            "(missing)",
            "--model and --data belong together",
        )
    elif out is None:
        raise ConfigError("--out", "(missing)", "name a run directory")
    else:
        with _timed():
            from pipelines.evaluate import evaluate_model

            evaluate_model(recipe, model, data, out, overrides, seed)
        _show_result(out)


def _modes(text: str) -> str:
    from bimode.modes import Mode

    named = [one_of("--modes", mode.strip(), list(Mode)) for mode in text.split(",")]
    return f"evaluate.modes={json.dumps(named)}"


@app.command()
def explain(
    run: Annotated[
        Path, typer.Argument(metavar="DIR", help="run directory of a run that has curated")
    ],
    wanted: Annotated[str, typer.Argument(metavar="ID", help=ID_HELP)],
) -> None:
    """The whole story of one row, kept or rejected: source, reason, tag with its evidence,
    attempts.
    """
    from pipelines.explain import explain_run

    explain_run(run, wanted)


@app.command()
def audit(
    run: Annotated[
        Path, typer.Argument(metavar="DIR", help="run directory, of a live run or an ended one")
    ],
) -> int:
    """Proves from the ledger where every question of BPO has gone; 1 if the counts do not close."""
    from pipelines.audit import audit_run

    return audit_run(run)


@app.command()
def scale(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="run directory of a live BPO run")],
    rollouts: Annotated[
        int, typer.Option("--rollouts", metavar="N", min=1, help="rollout workers from now on")
    ],
) -> None:
    """More or fewer rollout workers for a live run; those that leave finish their work first."""
    from pipelines.scale import scale_run

    scale_run(run, rollouts)


@app.command()
def serve(
    model: Annotated[
        Path, typer.Option("--model", metavar="M", help="Hugging Face model directory")
    ],
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=1, max=65535, help="of the endpoint")
    ] = 8000,
    host: Annotated[str, typer.Option("--host", help=HOST_HELP)] = "127.0.0.1",
    gpus: Annotated[
        int, typer.Option("--gpus", min=0, help="GPUs of the engine; 0 serves on the CPU")
    ] = 0,
    name: Annotated[str, typer.Option("--name", help=NAME_HELP)] = "",
    max_model_len: Annotated[
        int, typer.Option("--max-model-len", metavar="N", min=0, help=LENGTH_HELP)
    ] = 0,
    max_requests: Annotated[
        int, typer.Option("--max-requests", metavar="N", min=1, help=REQUESTS_HELP)
    ] = MAX_REQUESTS,
    request_timeout_s: Annotated[
        float, typer.Option("--request-timeout-s", min=1, help=TIMEOUT_HELP)
    ] = REQUEST_TIMEOUT_S,
    drain_s: Annotated[float, typer.Option("--drain-s", min=0, help=DRAIN_HELP)] = DRAIN_S,
    allow_origin: Annotated[
        list[str], typer.Option("--allow-origin", metavar="URL", help=ORIGIN_HELP)
    ] = NOTHING,
) -> None:
    """OpenAI-compatible endpoint on Ray Serve, with thinking_mode in chat_template_kwargs."""
    from pipelines.serve import serve_model

    endpoint = EndpointConfig(
        name=name,
        host=host,
        port=port,
        gpus=gpus,
        max_model_len=max_model_len,
        max_requests=max_requests,
        request_timeout_s=request_timeout_s,
        drain_s=drain_s,
        allow_origins=tuple(allow_origin),
    )
    serve_model(model, endpoint)


@app.command()
def submit(
    recipe: RecipePath,
    out: Annotated[
        str,
        typer.Option(
            "--out", metavar="DIR", help="run directory: an absolute path that every node sees"
        ),
    ],
    address: Annotated[str, typer.Option("--address", metavar="URL", help=ADDRESS_HELP)] = "",
    stage: Annotated[
        str,
        typer.Option("--stage", help="curate, anneal, bpo or evaluate; run is all of the recipe's"),
    ] = "run",
    set_: Set = NOTHING,
    seed: Seed = None,
) -> None:
    """The same run as a Ray job, with this code as its working directory."""
    from pipelines.submit import submit_run

    submit_run(recipe, out, address, stage, tuple(set_), seed)


if __name__ == "__main__":
    main()
