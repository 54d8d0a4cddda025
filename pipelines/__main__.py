"""The command line and its table of commands: `bimode X` is `python -m pipelines.X`.

A command imports its module when it runs, so that `bimode --help` loads neither torch nor Ray.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bimode.config.endpoint import DRAIN_S, MAX_REQUESTS, REQUEST_TIMEOUT_S, EndpointConfig
from bimode.errors import NOT_PERMITTED, BimodeError, ConfigError
from bimode.inputs.text import printable
from bimode.storage.uri_secrets import refuse_secrets
from pipelines.failure import FULL_DISK_ERRORS, INTERRUPTED
from pipelines.saved_recipe import recipe_and_run, refuse_bare_name

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
PROVE_LENGTH_HELP = "tokens of prompt and response together that are tried"
PIXELS_HELP = "of an image before it becomes tokens (model.max_pixels); 0: the processor's own"
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


def main(command: str = "") -> None:
    """Run the command line and exit. `command` goes before the arguments of the process."""
    sys.exit(exit_code([*([command] if command else []), *sys.argv[1:]]))


def exit_code(arguments: list[str]) -> int:
    """Run a command. Returns 0, or the code of an error, which stderr gets as one line."""
    try:
        _refuse_secrets(arguments)
        code = app(arguments, standalone_mode=False, prog_name="bimode") or 0
    except BimodeError as error:
        return _fail(str(error), error.exit_code)
    except PermissionError as error:
        return _fail(f"{error.filename or error}: {NOT_PERMITTED}", ConfigError.exit_code)
    except OSError as error:
        if error.errno not in FULL_DISK_ERRORS:
            raise
        return _fail(f"{error}: free some room on that disk; the same command continues", 1)
    except typer.TyperException as error:
        message = error.format_message()
        if not message:  # no arguments: typer has shown the help
            return error.exit_code
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "bimode"
        return _fail(f"{message.rstrip('.')}: see {path} --help", error.exit_code)
    if code == INTERRUPTED:  # typer returns it after Ctrl-C
        return _fail("interrupted: nothing is left running; the same command continues", code)
    return int(code)


def _refuse_secrets(arguments: list[str]) -> None:
    """Raise ConfigError for a credential, since every user of the machine can read arguments."""
    flag = "argument"
    for argument in arguments:
        refuse_secrets(flag, argument)
        flag = argument if argument.startswith("-") else "argument"


def _fail(message: str, code: int) -> int:
    print(printable("error: " + " ".join(message.split())), file=sys.stderr, flush=True)
    return code


def run_recipe(
    stages: tuple[str, ...], recipe: Path, out: str, overrides: list[str], seed: int | None
) -> None:
    """Load the recipe and run `stages` of it. No stages means the recipe's own list."""
    from pipelines.progress import timed

    with timed():
        from cluster.session import output_directory
        from pipelines.harness import run_stages
        from pipelines.saved_recipe import load

        loaded = load(recipe, tuple(overrides), seed)
        folder = output_directory(out)
        run_stages(stages or loaded.stages, loaded, folder)
    if "evaluate" in (stages or loaded.stages):
        from pipelines.report.summary import print_summary

        print_summary(folder / "evaluate")


def _show_version(wanted: bool) -> None:
    if wanted:
        from cluster.environment import version_line

        print(version_line())
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
    """Options that precede a command."""


@app.command()
def run(recipe: RecipePath, out: Out, set_: Set = NOTHING, seed: Seed = None) -> None:
    """Run all stages of the recipe, skipping those whose inputs and config are unchanged."""
    run_recipe((), recipe, out, set_, seed)


@app.command()
def curate(recipe: RecipePath, out: Out, set_: Set = NOTHING, seed: Seed = None) -> None:
    """Turn questions into tagged Parquet rows for both modes."""
    run_recipe(("curate",), recipe, out, set_, seed)


@app.command()
def anneal(recipe: RecipePath, out: Out, set_: Set = NOTHING, seed: Seed = None) -> None:
    """Fine-tune the model on the curated rows, in both modes."""
    run_recipe(("anneal",), recipe, out, set_, seed)


@app.command()
def bpo(
    recipe: RecipePath,
    out: Out,
    chaos: Annotated[str, typer.Option("--chaos", metavar="KIND", help=CHAOS_HELP)] = "",
    set_: Set = NOTHING,
    seed: Seed = None,
) -> None:
    """Train the model to choose when to think (bi-mode policy optimization)."""
    if chaos:
        from pipelines.chaos import chaos_override

        set_ = [*set_, chaos_override(chaos)]
    run_recipe(("bpo",), recipe, out, set_, seed)


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
    """Measure accuracy, tokens and routing in three modes on held-out questions, before and after
    BPO.
    """
    if modes:
        from pipelines.evaluate import modes_override

        set_ = [*set_, modes_override(modes)]
    if model is None and data is None:
        own, run = recipe_and_run(recipe, out)
        run_recipe(("evaluate",), own, run, set_, seed)
        return
    if model is None or data is None:
        flag = "--data" if data is None else "--model"
        raise ConfigError(flag, "(missing)", "--model and --data belong together")
    if out is None:
        raise ConfigError("--out", "(missing)", "name a run directory")
    from pipelines.progress import timed

    with timed():
        from pipelines.evaluate import evaluate_model

        folder = evaluate_model(recipe, model, data, out, set_, seed)
    from pipelines.report.summary import print_summary

    print_summary(folder)


@app.command()
def prove(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Hugging Face model directory")],
    max_model_len: Annotated[
        int, typer.Option("--max-model-len", metavar="N", min=64, help=PROVE_LENGTH_HELP)
    ] = 1024,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", metavar="N", min=0, help=PIXELS_HELP)
    ] = 0,
) -> int:
    """Prove that a model is computed rightly: packed trees, gradients, engine, updates, saving."""
    from pipelines.prove import prove_model

    return prove_model(model, max_model_len, max_pixels)


@app.command()
def explain(
    run: Annotated[
        Path, typer.Argument(metavar="DIR", help="run directory of a run that has curated")
    ],
    wanted: Annotated[str, typer.Argument(metavar="ID", help=ID_HELP)],
) -> None:
    """Show the history of one row, kept or rejected: source, checks, attempts, tag with its
    evidence.
    """
    from pipelines.explain import explain_run

    explain_run(run, wanted)


@app.command()
def audit(
    run: Annotated[
        Path, typer.Argument(metavar="DIR", help="run directory, of a live run or an ended one")
    ],
) -> int:
    """Prove from the ledger that every prompt of BPO is accounted for; exit code 1 if one is
    not.
    """
    from pipelines.audit import audit_run

    return audit_run(run)


@app.command()
def scale(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="run directory of a live BPO run")],
    rollouts: Annotated[
        int, typer.Option("--rollouts", metavar="N", min=1, help="rollout workers from now on")
    ],
) -> None:
    """Add or remove rollout workers of a live run; a removed worker finishes its leases first."""
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
    """Serve the model: an OpenAI-compatible endpoint with thinking_mode in chat_template_kwargs."""
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
    """Run the recipe as a Ray job, with this code as its working directory."""
    from pipelines.submit import submit_run

    submit_run(recipe, out, address, stage, tuple(set_), seed)


if __name__ == "__main__":
    main()
