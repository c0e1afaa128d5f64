"""What is wrong with one trace that is to be learned from."""

from factory.core.records import Trace
from factory.rewards import language_consistency, repetition
from factory.rewards.language import language_of
from factory.text.chat import boxes
from factory.text.lint import lint

FAULTS: dict[str, str] = {
    "wrong": "the answer is graded as wrong",
    "timeout": "its program takes too long",
    "crashed": "its program ends with an error",
    "cut": "it ends at the length limit of who wrote it",
    "looping": "more than half of its runs of four words stand earlier in it",
    "unparseable": "thoughts and answer cannot be told apart",
    "no_thoughts": "there are no thoughts",
    "several_answers": "it gives more than one answer behind its thoughts",
    "mixed_languages": "over a tenth of the thoughts is in another language than the question",
    "unsafe_characters": "characters that cannot be seen",
    "contaminated": "its question or text holds a question of a benchmark",
    "duplicate": "the same question and text stand earlier",
    "near_duplicate": "nearly the same question and text stand earlier",
    "too_long": "more tokens than the student reads",
}
"""Every fault in words, in the order in which they are shown. A trace may have several."""
MOST_REPETITION = 0.5
LEAST_IN_LANGUAGE = 0.9
"""As `select` has them by default, and R1's filter of mixed languages."""
LEAST_BY_THEMSELVES = 0.8
"""Of the thoughts' words in their own main language, where the question tells none; ours."""


def faults(trace: Trace) -> list[str]:
    """The faults that a trace has by itself, by their names in FAULTS."""
    outcome = trace.verdict.outcome
    names = [outcome] if outcome in ("wrong", "timeout", "crashed") else []
    is_cut = trace.finish_reason == "length" or outcome == "truncated"
    is_loop = trace.finish_reason == "loop" or repetition(trace.completion) > MOST_REPETITION
    tests = {
        "cut": is_cut,
        "looping": is_loop,
        "unparseable": trace.answer is None and not is_cut and not is_loop,
        "no_thoughts": trace.answer is not None and not (trace.reasoning or "").strip(),
        "several_answers": _has_several_answers(trace),
        "mixed_languages": _mixes(trace),
        "unsafe_characters": _hides(trace.completion),
    }
    return names + [name for name, is_so in tests.items() if is_so]


def _has_several_answers(trace: Trace) -> bool:
    """Whether different boxes, or blocks of answers, stand behind the thoughts."""
    behind = trace.completion.rpartition("</think>")[2]
    texts = [behind] if trace.summary is None else [behind, trace.summary]
    for text in texts:
        blocks = [part.partition("</answer>")[0] for part in text.split("<answer>")[1:]]
        values = blocks if len(blocks) > 1 else boxes(text) or []
        if len({value.strip() for value in values}) > 1:
            return True
    return False


def _mixes(trace: Trace) -> bool:
    if not trace.reasoning:
        return False
    # Questions may be formulas, or too short to tell: then the thoughts may not mix by themselves.
    language, least = language_of(trace.question), LEAST_IN_LANGUAGE
    if language is None:
        language, least = language_of(trace.reasoning), LEAST_BY_THEMSELVES
    return language is not None and language_consistency(trace.reasoning, language) < least


def _hides(text: str) -> bool:
    # The usual case at once: printable ASCII and line breaks.
    if text.isascii() and text.translate(_BLANKS).isprintable():
        return False
    return any(fault.startswith("invisible") for fault in lint(text))


_BLANKS = str.maketrans({"\n": " ", "\t": " "})
