"""Filters: what is refused, and beside each of them the text next to it that is not."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bimode.config.curate import FilterConfig, SourceConfig
from bimode.errors import ConfigError
from data_curation.checks.filters import check_languages, filter_row, repetition, says_nothing
from data_curation.checks.validate import REASONS
from data_curation.demo import family_of

ENGLISH = FilterConfig(languages=("en",))
OFF = FilterConfig(max_repetition=0.0)
ASKED = "What is the total of all bars in the chart?"
WORDS = [f"w{n}" for n in range(400)]


def reason(
    question: str = ASKED, answer: str = "5", trace: str = "", config: FilterConfig = ENGLISH
) -> str:
    found, detail = filter_row(question, answer, trace, config)
    assert not found or found in REASONS
    assert detail.isascii() and len(detail) < 200
    return found


@pytest.mark.parametrize(
    ("name", "limit"), [("question", 8000), ("answer", 2000), ("trace", 32000)]
)  # the defaults of FilterConfig
def test_lengths_end_at_their_limit(name: str, limit: int) -> None:
    text = " ".join(f"{n}" for n in range(20000))  # no 4-gram twice
    assert (
        reason(
            **{name: text[:limit].replace(" ", "-")[: limit - 1] + "x"},
            config=FilterConfig(max_repetition=1.0),
        )
        == ""
    )
    assert reason(**{name: text[: limit + 1]}) == f"long_{name}"


@pytest.mark.parametrize(
    "text",
    [
        "Wie viele rote Kreise sind links vom Quadrat?",
        "Combien de cercles rouges sont à gauche du carré ?",
        "¿Cuántos círculos rojos hay a la izquierda del cuadrado?",
        "Quanti cerchi rossi ci sono a sinistra del quadrato?",
        "图中红色圆形有几个?",
        "グラフの中で一番高い棒はどれですか?",
        "Сколько красных кругов слева от квадрата на картинке?",
        "ما هو مجموع كل الأرقام في الصورة؟",
    ],
)
def test_another_language_is_refused_where_english_is_asked_for(text: str) -> None:
    assert reason(text) == "wrong_language" and reason(text, config=FilterConfig()) == ""


@pytest.mark.parametrize(
    "text",
    [
        ASKED,
        "Quelle heure est-il ?",  # four words: too short to tell
        r"Solve for $x$: $\frac{x^2-4}{x-2} = 7$ and give the answer as an integer",
        "AB is parallel to CD and angle ABC is 40 degrees, find angle BCD.",
        "tallest bar minus the smallest bar modulo 23 ?",
        "the strip is one number ; what is the remainder by 23 ?",
        "State the final answer to the following arithmetic problem: 49 - 81 + 54 + 71 =",
        "3 + 4 x 5 - 6 = ? 7 + 8 x 9 - 10 = ?",  # no word at all
        "WHICH OPTION IS CORRECT FOR THE FIGURE SHOWN ABOVE?",
    ],
)
def test_english_formulas_and_short_texts_pass(text: str) -> None:
    assert reason(text) == ""


def test_each_of_several_languages_passes() -> None:
    both = FilterConfig(languages=("en", "de"))
    assert (
        reason("Wie viele rote Kreise sind links vom Quadrat?", config=both)
        == ""
        == reason(config=both)
    )
    assert (
        reason("Combien de cercles rouges sont à gauche du carré ?", config=both)
        == "wrong_language"
    )


def test_a_language_that_does_not_exist_is_named() -> None:
    check_languages(("en", "zh"))
    with pytest.raises(ConfigError, match=r"curate\.filter\.languages = english: .*\ben\b"):
        check_languages(("en", "english"))


def test_repetition_by_hand() -> None:
    """40 words have 37 4-grams."""
    assert repetition(" ".join(WORDS[:40])) == 0.0
    assert repetition(" ".join(WORDS[:10] * 4)) == pytest.approx(27 / 37)  # 10 are new
    assert repetition(" ".join(WORDS[:30] + WORDS[:10])) == pytest.approx(7 / 37)
    assert repetition(" ".join(WORDS[:36] + WORDS[:4])) == pytest.approx(1 / 37)
    assert repetition(" ".join(WORDS[:37] + WORDS[:3])) == 0.0  # three words are no 4-gram
    assert repetition(" ".join(WORDS[:10] * 3)) == 0.0  # 30 words are too few to say


def test_a_loop_at_the_end_of_a_long_text_is_seen() -> None:
    """300 words and then 5 words 40 times: of all 497 4-grams 192 are old, of the last 197 as
    many.
    """
    text = " ".join(WORDS[:300] + WORDS[:5] * 40)
    assert repetition(text) == pytest.approx(192 / 197)
    assert reason(trace=text) == "repetition" and reason(trace=text, config=OFF) == ""


LOOPS = (
    "so wait , let me look again . ",
    "hmm",
    "!",
    "和",
    "再看一次。",
    "9 + 9 > 18 ; ",
    "\n- ",
    "abc",
)


@pytest.mark.parametrize("phrase", LOOPS)
def test_every_phrase_that_fills_a_trace_is_a_loop(phrase: str) -> None:
    trace = "look : 2 bars : 4 1 ; then " + phrase * (20000 // len(phrase))
    assert reason(trace=trace) == "repetition"


def test_working_that_resembles_itself_is_no_loop() -> None:
    """A table that is read row by row, and a search over cases: words come back, arguments do
    not.
    """
    rows = " ; ".join(
        f"row {n} has {n * 7 % 13} and {n * 5 % 11} , which makes {n * 7 % 13 + n * 5 % 11}"
        for n in range(40)
    )
    cases = " ".join(
        f"If x = {n}, then x^2 + 1 = {n * n + 1}, and {n * n + 1} mod 7 = {(n * n + 1) % 7}."
        for n in range(40)
    )
    assert repetition(rows) < 0.5 and repetition(cases) < 0.5


@pytest.mark.parametrize(
    "trace",
    [
        " ",
        "\n\t\n",
        "...",
        "Let me think step by step.",
        "<think>\n\n</think>",
        "N/A",
        "None",
        "5",
        "So the answer is 5.",
        "Let's think about this problem carefully. Therefore, the final answer is: 5",
        "Thinking... OK, it's 5!",
    ],
)
def test_a_trace_that_says_nothing_is_empty(trace: str) -> None:
    assert reason(trace=trace) == "empty_trace"


@pytest.mark.parametrize(
    "trace",
    [
        "",
        "read 5",
        "look : 1 terms : 5 ; then 5 ; so 5",
        "2 + 3",
        "It is 5 because bar B is tallest.",
    ],
)
def test_a_short_trace_that_says_something_is_none(trace: str) -> None:
    assert reason(trace=trace) == ""


def test_a_trace_says_something_if_it_speaks_of_question_or_answer() -> None:
    question, answer = "Which animal eats the grass?", "Red deer"
    assert says_nothing("Let me look at the image. The answer is the red deer.", question, answer)
    assert says_nothing("After weighing every possibility I am quite confident.", question, answer)
    assert not says_nothing(
        "After weighing every possibility I am quite confident: deer.", question, answer
    )
    assert not says_nothing("An arrow goes from the grass to it.", question, answer)
    assert not says_nothing(
        "\u8349\u88ab\u9e7f\u5403", "\u54ea\u79cd\u52a8\u7269\u5403\u8349?", "A"
    )  # Chinese: no blanks, yet words in common


def test_what_a_family_draws_passes() -> None:
    for index in range(30):
        sample = family_of(SourceConfig(family="tables"))(index, "train", 0, (1.0, 1.0, 1.0))
        assert filter_row(sample.question, sample.answer, sample.trace, ENGLISH) == ("", "")


@settings(max_examples=60)
@given(st.text(max_size=300), st.text(max_size=50), st.text(max_size=300), st.integers(1, 40))
@example("", "", "\U0001d555" * 80, 1)  # each ten characters in ASCII, in the detail
def test_no_text_stops_it(question: str, answer: str, trace: str, times: int) -> None:
    reason(question, answer, trace)
    share = repetition(trace * times)
    assert 0.0 <= share <= 1.0


@settings(max_examples=60)
@given(st.integers(1, 80), st.integers(0, 200))
def test_whatever_is_said_over_and_over_is_a_loop(phrase: int, before: int) -> None:
    """A phrase of up to 80 words after up to 200 others, for 400 words."""
    text = WORDS[:before] + (WORDS[300 : 300 + phrase] * 400)[:400]
    assert repetition(" ".join(text)) > 0.5
