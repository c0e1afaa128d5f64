"""Finds what is wrong with a completion that is to be learned from, beyond its grammar."""

from factory.text.chat import OutputForm, canonical_text, parse
from factory.text.visible import hidden_characters


def lint(text: str, *, form: OutputForm | None = None, prefill: str = "") -> list[str]:
    """All faults of a completion that is to be learned from, its grammar first; [] if none.

    Beyond the grammar: characters that cannot be seen, blanks that differ from the canonical
    text, thoughts that are missing and a summary that only repeats them (in an output form).
    """
    response = parse(text, prefill=prefill, form=form)
    if response.reasoning is None or response.answer is None:
        return [response.problem]
    faults: list[str] = []
    if hidden := hidden_characters(text):
        faults.append(
            "invisible characters: " + " ".join(f"U+{ord(c):04X}" for c in sorted(hidden))
        )
    canonical = canonical_text(response.reasoning, response.answer, response.summary, form)
    if (prefill + text).strip() != canonical:
        faults.append("white space differs from the canonical text")
    if form is not None:
        if not response.reasoning:
            faults.append("the thoughts are empty")
        elif response.reasoning.split() == (response.summary or "").split():
            faults.append("the summary repeats the thoughts")
    return faults
