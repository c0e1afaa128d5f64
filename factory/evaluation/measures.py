"""The built-in measures, registered as a user's are."""

from factory.core.records import EvalSample
from factory.evaluation.measure import measure
from factory.rewards.language import language_consistency, language_of
from factory.rewards.text import reflective_words
from factory.text.chat import parse

SHARE = (0.0, 1.0)


@measure("accuracy", version=1, bounds=SHARE)
def accuracy(sample: EvalSample) -> float:
    """Share of right answers by the strict reading."""
    return float(sample.trace.verdict.is_correct)


@measure("solved", version=1, bounds=SHARE, of_problem="largest")
def solved(sample: EvalSample) -> float:
    """Share of problems with a right answer among their samples: pass@k at the evaluation's k."""
    return float(sample.trace.verdict.is_correct)


@measure("lenient", version=1, bounds=SHARE)
def lenient(sample: EvalSample) -> float:
    """Share of right answers by the lenient reading."""
    return float(sample.lenient.is_correct)


@measure("format", version=1, bounds=SHARE)
def well_formed(sample: EvalSample) -> float:
    """Share of well-formed completions."""
    return float(sample.trace.answer is not None or parse(sample.trace.completion).is_well_formed)


@measure("length", version=1)
def length(sample: EvalSample) -> float:
    """Tokens of a completion."""
    return float(sample.trace.completion_tokens)


@measure("reflection", version=1)
def reflection(sample: EvalSample) -> float:
    """How often a completion has one of the paper's ten words of reflection."""
    return float(sum(reflective_words(sample.trace.completion).values()))


@measure("mixing", version=1, bounds=SHARE)
def mixing(sample: EvalSample) -> float | None:
    """Share of the thoughts' words that are not in the language of the question: 0 where nothing
    is thought, and left out where the question's words do not say its language."""
    language = language_of(sample.trace.question)
    if language is None:
        return None
    return 1.0 - language_consistency(sample.trace.reasoning or "", language)
