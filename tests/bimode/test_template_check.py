"""A foreign chat template reaches nothing but its text, and costs neither minutes nor gigabytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bimode.chat_renderer import ChatRenderer
from bimode.errors import ConfigError
from bimode.models import template_check
from bimode.models.template import CHAT_TEMPLATE
from bimode.renderer import Renderer
from pipelines.serve import servable

PLAIN = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
BOMBS = {
    "in one mode": ("{% if thinking_mode == 'short' %}" + LOOP + "{% endif %}", "within 1 s"),
    "in a second turn": ("{% if messages | length > 1 %}" + LOOP + "{% endif %}", "within 1 s"),
    "big number": ("{% set a = 9 %}{{ (a ** (a ** a)) | string | length }}", "within 1 s"),
    "when compiled": ("{{ 9 ** (9 ** 9) }}", "is not rendered within"),
    "long text": ("{% set n = 10 %}{{ 'a' * n ** 10 }}", "is not rendered within 64 MiB"),
    "doubled": (
        (
            "{% set s = namespace(x='a') %}{% for i in range(60) %}{% set s.x = s.x ~ s.x %}{%"
            " endfor %}"
        ),
        "is not rendered within 64 MiB",
    ),
    "endless": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "cannot be rendered"),
    "no template": ("{% for %}", "cannot be read"),
    "deep": ("(" * 20_000 + "{{" + "(" * 20_000, ""),
}


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    template_check._problem.cache_clear()
    monkeypatch.setattr(template_check, "SECONDS", 1)
    monkeypatch.setattr(template_check, "MEMORY", 64 << 20)


def with_template(base: Path, folder: Path, template: str) -> Path:
    model = Path(shutil.copytree(base, folder / "model"))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    return model


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_without_bounds_is_refused(
    text_model: Path, tmp_path: Path, limits: None, name: str
) -> None:
    """It held a thread of the server for minutes; `thinking_mode` stands in each, as serving
    asks.
    """
    template, says = BOMBS[name]
    model = with_template(text_model, tmp_path, template + "{# thinking_mode #}")
    with pytest.raises(ConfigError, match=f"^--model = {model}: its chat template ") as told:
        servable(model)
    assert says in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("renderer", [Renderer, ChatRenderer])
def test_a_judge_or_a_tagging_model_is_checked_before_its_first_prompt(
    text_model: Path, tmp_path: Path, limits: None, renderer: type[Renderer]
) -> None:
    model = with_template(text_model, tmp_path, LOOP)
    with pytest.raises(ConfigError, match="its chat template is not rendered within 1 s"):
        renderer(model).prompt_text("What is it?", 0)


@pytest.mark.parametrize("template", [{"default": ["x thinking_mode"]}, {"default": {"a": 1}}])
def test_a_template_that_is_no_text_is_a_line(
    text_model: Path, tmp_path: Path, template: dict[str, object]
) -> None:
    speaker = Renderer(text_model).tokenizer
    speaker.chat_template = template
    with pytest.raises(ConfigError, match="its chat template is no text"):
        template_check.check_templates(text_model, speaker)


ATTACKS = [
    "{{ messages.__class__.__mro__ }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch RAN').read() }}",
    "{{ lipsum.__globals__['os'].system('touch RAN') }}",
    "{{ '{0.__class__.__base__}'.format(messages) }}",
    "{{ '%s' | format(raise_exception.__globals__) }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ self._TemplateReference__context.environment.globals }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__base__ }}",
    "{{ strftime_now.__closure__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch RAN') }}",
    "{% set _ = messages.append(messages[0]) %}{{ messages | length }}",
    "{% set _ = messages[0].update(content='other') %}",
]


def test_the_child_has_what_transformers_has() -> None:
    """A template that uses another name would be refused there, and render here."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    others, ours = _compile_jinja_template("x").environment, template_check.sandbox()
    assert type(ours) is type(others)
    for kind in ("filters", "globals", "tests"):
        assert getattr(ours, kind).keys() == getattr(others, kind).keys()
    assert (ours.trim_blocks, ours.lstrip_blocks) == (others.trim_blocks, others.lstrip_blocks)
    marked = "{% generation %}{{ x | tojson(indent=1) }}{% endgeneration %}{% break %}"
    marked = (
        "{% for x in [{'a': 'ä'}, 2] %}" + marked + "{% endfor %}{{ strftime_now('%Y') | length }}"
    )
    assert ours.from_string(marked).render() == others.from_string(marked).render()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_reaches_no_object_of_python(
    text_model: Path, tmp_path: Path, attack: str
) -> None:
    """Jinja's sandbox, in which transformers renders: refused, or empty."""
    attack = attack.replace("RAN", str(tmp_path / "ran"))
    speaker = Renderer(text_model).tokenizer
    speaker.chat_template = "[" + attack + "]"
    messages = [{"role": "user", "content": "x"}]
    try:
        made = speaker.apply_chat_template(messages, tokenize=False)
    except Exception as refused:  # of Jinja, whose words they are
        made = "[]"
        assert type(refused).__module__.startswith("jinja2") or isinstance(refused, TypeError)
    assert made == "[]" and messages == [{"role": "user", "content": "x"}]
    assert not (tmp_path / "ran").exists()


def test_sound_templates_pass_and_ours_needs_no_child(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (
        "{% for m in messages %}{% for p in m['content'] %}{{ p['type'] + bos_token }}{% endfor"
        " %}{% endfor %}"
    )
    strict = (
        PLAIN + "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"
    )
    for at, template in enumerate((PLAIN, parts, strict, CHAT_TEMPLATE + " ")):
        (tmp_path / str(at)).mkdir()
        model = with_template(text_model, tmp_path / str(at), template)
        Renderer(model).check_template()
    monkeypatch.setattr(template_check, "_problem", None)  # whoever asks it now fails
    Renderer(text_model).check_template()
    assert servable(text_model).tokenizer.chat_template == CHAT_TEMPLATE
