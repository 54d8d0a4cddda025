"""What a user meets on the command line when something is wrong: one line, an exit code, nothing
started.
"""

from __future__ import annotations

import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from pipelines.__main__ import app, exit_code

sys.path.insert(0, str(Path(__file__).parent))
from processes import REPO, command

PATIENCE = r"\w+: (looking for|reading) its inputs|evaluate: looking at the model and the data"
SMOKE = 'name = "t"\nstages = ["anneal"]\n'


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code, and the one line on stderr, beside one that asks for patience on a slow
    machine.
    """
    code = exit_code(list(words))
    lines = [
        line for line in capsys.readouterr().err.splitlines() if not re.fullmatch(PATIENCE, line)
    ]
    assert len(lines) == 1, lines
    return code, lines[0]


def test_unknown_key_names_key_value_and_fix(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = said(
        capsys, "run", str(recipe), "--out", str(tmp_path / "run"), "--set", "anneal.stepz=3"
    )
    assert code == 2
    assert line.startswith("error: anneal.stepz = 3: ") and "steps" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("run", "absent.toml", "--out", "x"), "recipe = absent.toml: no such file"),
        (("run", "{recipe}"), "Missing option '--out'"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("run", "{recipe}", "--out", "x", "--set", "anneal.steps=zero"), "anneal.steps = zero"),
        (("run", "{recipe}", "--out", "s3://bucket/run"), "--out = s3://bucket/run"),
        (
            ("evaluate", "--out", "x", "--model", "m"),
            "--data = (missing): --model and --data belong together",
        ),
        (
            ("evaluate", "--out", "x"),
            "RECIPE = (missing): give a recipe or a run's directory, or --model and --data",
        ),
        (("evaluate", "{recipe}"), "--out = (missing): name a run directory"),
        (
            ("evaluate", "pipelines"),
            "RECIPE = pipelines: is neither a recipe nor a run's directory",
        ),
        (("evaluate", "--model", "m", "--data", "d"), "--out = (missing): name a run directory"),
        (
            ("evaluate", "--out", "x", "--model", "absent", "--data", "absent"),
            "--model = absent: no such directory",
        ),
        (
            ("bpo", "{recipe}", "--out", "x", "--chaos", "foo"),
            "--chaos = foo: use one of kill-rollout, stall-rollout",
        ),
        (
            ("evaluate", "{recipe}", "--out", "x", "--modes", "auto,foo"),
            "--modes = foo: use one of auto, thinking, non_th",
        ),
        (("run", "{recipe}", "--out", ""), "--out = '': it is empty"),
        (
            ("run", "{recipe}", "--out", "a?[b]"),
            "a?[b]: has ? [ ] in it, which vLLM takes for a pattern",
        ),
        (("run", "{recipe}", "--out", "x" * 300), "cannot be made (File name too long)"),
        (("run", "pipelines", "--out", "x"), "recipe = pipelines: cannot be read: Is a directory"),
        (
            ("run", "README.md/x", "--out", "x"),
            "recipe = README.md/x: cannot be read: Not a directory",
        ),
        (("serve", "--model", "absent"), "--model = absent: no such directory"),
        (
            ("serve", "--model", "absent", "--host", "203.0.113.1"),
            "--host = 203.0.113.1: no address of this machine",
        ),
        (
            ("submit", "{recipe}", "--out", "/x", "--stage", "report"),
            "--stage = report: use one of run, curate",
        ),
        (
            ("submit", "{recipe}", "--out", "/x", "--stage", "curat"),
            "anneal, bpo, evaluate; did you mean curate?",
        ),
        (
            ("submit", "{recipe}", "--out", "relative", "--address", "http://127.0.0.1:1"),
            "the job sees only",
        ),
        (
            ("submit", "pipelines/recipes/tiny.toml", "--out", "/x", "--address", "myhead:8265"),
            "--address = myhead:8265: is the URL of a dashboard; write http://myhead:8265",
        ),
        (
            ("submit", "pipelines/recipes/tiny.toml", "--out", "/x", "--set", "model.base=runs/m"),
            "model.base = runs/m: is relative",
        ),
        (
            ("submit", "pipelines/recipes/tiny.toml", "--out", "relative"),
            "--out = relative: a job needs an absolute",
        ),
    ],
)
def test_mistakes_are_one_line_and_code_2(
    words: tuple[str, ...],
    part: str,
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(REPO)
    code, line = said(capsys, *(word.format(recipe=recipe) for word in words))
    assert code == 2 and part in line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("anneal=3", "anneal = 3: is a section; write [anneal]"),
        ("evaluate.modes=auto", 'evaluate.modes = auto: is a list; write ["auto"]'),
        ("evaluate.modes=[]", "evaluate.modes = []: must not be empty"),
        (
            'evaluate.modes=["auto", "auto"]',
            "evaluate.modes = ['auto', 'auto']: name each mode once",
        ),
        (
            "anneal.batch_size=7",
            "anneal.batch_size = 7: must be a multiple of anneal.learner.workers = 2",
        ),
        (
            'bpo={algorithm = "bpo", decision = "preferred"}',
            "bpo.decision = preferred: bpo.algorithm = bpo takes masked",
        ),
        (
            'bpo={algorithm = "grpo", self_routed = 0.5}',
            "bpo.self_routed = 0.5: bpo.algorithm = grpo has no rollouts of both",
        ),
        (
            "bpo.algorithm=gpro",
            "bpo.algorithm = gpro: use 'adaptthink', 'bpo', 'counterroute', 'dapo'",
        ),
        (
            "curate.sources.1.family=chart",
            "curate.sources.1.family = chart: use 'digits', 'charts'",
        ),
        (
            "curate.sources.2.family=charts",
            "--set = curate.sources.2.family=charts: no entry 2: the list has 2",
        ),
        (
            "curate.sources.0.wieght=2",
            "curate.sources.0.wieght = 2: unknown key; did you mean weight?",
        ),
        (
            'curate.sources.0.tasks=["chain_sum"]',
            "curate.sources.0.tasks = chain_sum: only reasoning_gym has tasks",
        ),
        ("curate.sources=[]", "curate.sources = []: must not be empty"),
        (
            "curate.level_weights=[0, 0, 0]",
            "curate.level_weights = [0, 0, 0]: weights are zero or more",
        ),
        (
            "curate.level_weights=[-1, 1, 1]",
            "curate.level_weights = [-1, 1, 1]: weights are zero or more",
        ),
        (
            "curate.tag.non_thinking_poor=0.75",
            "curate.tag.non_thinking_poor = 0.75: must be below non_thinking_ok = 0.75",
        ),
        ("cluster.num_cpus=3", "cluster.num_cpus = 3: "),
        (
            "anneal.optim.betas=[0.9, 1.0]",
            "anneal.optim.betas = [0.9, 1.0]: each must be at least 0 and below 1",
        ),
        ("anneal.optim.lr=nan", "anneal.optim.lr = nan: "),
        ('bpo.learner.train=["visual"]', "bpo.learner.train.0 = visual: use 'vision', "),
        (
            "bpo.max_tokens=2",
            "bpo.max_tokens = 2: must be more than 2, which forcing a mode takes of it",
        ),
        (
            "curate.sources.1.columns.question=q",
            "curate.sources.1.columns = question: are not read by family arithmetic",
        ),
        (
            "curate.sources.1={path = 'a.jsonl', layout = 'chat', columns = {id = 'k'}}",
            "curate.sources.1.columns = id: are not read",
        ),
        ("bpo.max_tokens=256", "bpo.max_tokens = 256: must be below model.max_model_len = 256"),
        (
            "curate.traces.max_tokens=256",
            "curate.traces.max_tokens = 256: must be below model.max_model_len = 256",
        ),
        (
            "curate.judge.max_model_len=512",
            "curate.judge.max_tokens = 1024: must be below curate.judge.max_model_len = 512",
        ),
        (
            'stages=["bpo", "anneal"]',
            (
                "stages = ['bpo', 'anneal']: name at least one, each once, in this order: curate,"
                " anneal"
            ),
        ),
        ("stages=[]", "stages = []: name at least one"),
        ('model.base=""', "model.base = : must not be empty"),
        ("anneal.steps=zero", "anneal.steps = zero: is a whole number"),
        ("anneal.steps=0", "anneal.steps = 0: must be more than 0"),
        ("curate.paired_share=2", "curate.paired_share = 2: must be 1 or less"),
        ("name=3", 'name = 3: is text; write "3"'),
        (
            "curate.cross_fit_fold=[2, 2]",
            "curate.cross_fit_fold = [2, 2]: which, counted from 0, and of how many;"
            " write e.g. [0, 2]",
        ),
        ("nmae=x", "nmae = x: unknown key; did you mean name?"),
        ("bpo.lr=1e-4", "bpo.lr = 0.0001: unknown key; did you mean bpo.optim.lr?"),
        ("steps=2", "steps = 2: unknown key; did you mean stages or anneal.steps or bpo.steps?"),
        (
            "bpo.sync=nccl",
            (
                "bpo.sync = nccl: moves weights between GPUs; use auto, or set"
                " cluster.rollout_gpus and"
            ),
        ),
    ],
)
def test_impossible_values_name_their_key_and_the_way_out(
    override: str, line: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(
        SMOKE + '[[curate.sources]]\nfamily = "digits"\n[[curate.sources]]\nfamily = "arithmetic"\n'
    )
    code, found = said(
        capsys, "run", str(recipe), "--out", str(tmp_path / "run"), "--set", override
    )
    assert code == 2 and found.startswith(f"error: {line}")
    assert not (tmp_path / "run").exists()


def test_a_misspelled_key_is_told_before_the_one_that_it_leaves_missing() -> None:
    with pytest.raises(ConfigError, match="nmae = x: unknown key; did you mean name"):
        Recipe.of({"nmae": "x"})
    with pytest.raises(
        ConfigError,
        match=(
            r'^name = \(missing\): must be given; write name = "\.\.\." at the top of the recipe$'
        ),
    ):
        Recipe.of({})


def test_an_entry_of_a_list_can_be_set() -> None:
    sources = [{"family": "digits"}, {"family": "charts"}]
    overrides = ("curate.sources.1.weight=2", "curate.sources.0.family=tables")
    made = Recipe.of({"name": "t", "curate": {"sources": sources}}, overrides)
    assert [(s.family, s.weight) for s in made.curate.sources] == [("tables", 1.0), ("charts", 2.0)]


def test_the_address_that_was_given_is_the_one_that_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's client would ask the one of the environment."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    asked: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        code, line = said(
            capsys,
            "submit",
            str(REPO / "pipelines/recipes/tiny.toml"),
            "--out",
            "/x",
            "--address",
            url,
        )
        server.shutdown()
    assert (
        asked
        and code == 2
        and line.startswith(f"error: --address = {url}: takes no job from this shell")
    )


def test_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--version"]) == 0
    assert re.fullmatch(
        r"bimode \d+\.\d+\.\d+ \(([0-9a-f]{40}(-dirty)?|files-\w+), files-[0-9a-f]{32}\)\n",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "evaluate",
            (
                "evaluate [OPTIONS] [RECIPE]",
                "all three without a recipe",
                "'evaluate.modes=[\"auto\"]'",
            ),
        ),
        ("submit", ("http://127.0.0.1:8265", "curate, anneal, bpo or evaluate")),
        ("serve", ("default: 8000", "default: 127.0.0.1")),
    ],
)
def test_help_tells_the_defaults(
    name: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads the help alone knows what happens when an option is left out."""
    assert exit_code([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert [word for word in words if word not in shown] == []


@pytest.mark.parametrize("name", [command.callback.__name__ for command in app.registered_commands])
def test_module_and_command_are_the_same(name: str) -> None:
    """A module without its last lines would exit 0 and do nothing."""
    assert f"Usage: bimode {name}" in command("-m", f"pipelines.{name}", "--help").stdout
