"""An own verifier: numbers are compared at so many decimal places, with half a point for the sign.

[[curate.sources]]
path = "my_rows.jsonl"
columns = { question = "q", answer = "a" }
verifier = "examples.verifier:grade"
verifier_args = { places = 1 }
"""


def grade(response: str, answer: str, places: int = 0) -> float:
    """Return 1 for the right value, 0.5 for the wrong sign, else 0."""
    try:
        found, wanted = float(response.strip()), float(answer)
    except ValueError:
        return 0.0
    if round(found, places) == round(wanted, places):
        return 1.0
    return 0.5 if round(-found, places) == round(wanted, places) else 0.0
