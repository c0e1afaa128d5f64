"""The first screen in words: what came out, how sure that is, what helped, what did not."""

from collections.abc import Sequence

from factory.core.readable import count, duration, listing, percent, plural, point_span, points
from factory.report.build import Build, once
from factory.report.lineage import weight_ancestors
from factory.report.records import Comparison, Evaluation, Verdict
from factory.report.scorecard import benchmarks, main_benchmark, main_score
from factory.report.sections.claims import ClaimRow, claim_rows
from factory.report.sections.cost import totals

MOST_WORDS = 25
"""Of the sentence."""
TOO_WIDE = 0.2
"""An interval that reaches further than this from its middle says little: too few problems."""


@once
def verdict(build: Build) -> Verdict:
    """The last model against where its weights started, on the main benchmark."""
    rows = build.evaluations
    benchmark = main_benchmark(rows)
    if benchmark is None:
        made = len(build.steps) - len(build.missing)
        sentence = f"No model is evaluated yet; {made} of {plural(len(build.steps), 'stage')} made."
        if rows:
            sentence = "No benchmark was measured with pass@1 or greedy: there is no verdict."
        return Verdict(sentence=sentence, sureness="nothing is compared.", cost=_cost(build))
    change = decisive(build)
    claims = claim_rows(build)
    return Verdict(
        sentence=_sentence(rows[-1], change, benchmark, rows),
        sureness=_sureness(rows[-1], change, benchmark, build),
        built=_built(build, rows[-1]),
        helped=_helped(build, benchmark, claims),
        unhelped=_unhelped(build, benchmark, claims),
        unproven=_unproven(build, benchmark),
        cost=_cost(build),
    )


def decisive(build: Build) -> Comparison | None:
    """The comparison that the verdict rests on: with the best of the last model's starts, so that
    a weak prompt of the base makes no gain."""
    rows = build.evaluations
    benchmark = main_benchmark(rows)
    if benchmark is None:
        return None
    changes = [row for row in from_start(build, benchmark) if row.after == rows[-1].label]
    return min(changes, key=lambda row: row.difference, default=None)


def from_start(build: Build, benchmark: str) -> list[Comparison]:
    """Every model against where it started: sampled answers where both have them, else greedy."""
    rows = [
        row
        for row in build.comparisons
        if row.relation == "start" and row.benchmark == benchmark
    ]  # fmt: skip
    sampled = {(row.before, row.after) for row in rows if row.mode == "sampled"}
    return [row for row in rows if row.mode == "sampled" or (row.before, row.after) not in sampled]


def _sentence(
    last: Evaluation, change: Comparison | None, benchmark: str, rows: Sequence[Evaluation]
) -> str:
    role = last.role if last.role not in (None, "first model") else "last model"
    who = f"The {role}" if last.label == role else f"The {role}, {last.label},"
    score = main_score(last, benchmark)
    if score is None:
        return _fitted(f"{who} was not measured on {benchmark}.", f"The {role} was not measured.")
    right = f"answers {percent(score.value)} of {benchmark} correctly"
    if change is None:
        rest = "; nothing that it started from was measured, so no gain is known."
        return _fitted(f"{who} {right}{rest}", f"The {role} {right}; no gain is known.")
    before = next(row for row in rows if row.label == change.before)
    start = main_score(before, benchmark)
    value = percent(start.value) if start is not None else "unknown"
    name = "its base" if before.label == "base" else f"its start, {before.label},"
    reading = _reading(change)
    return _fitted(
        f"{who} {right}, {name} {value}: {reading}.",
        f"The {role} answers {percent(score.value)} correctly, its start {value}: {reading}.",
    )


def _fitted(long: str, short: str) -> str:
    """Names may have any number of words."""
    return long if len(long.split()) <= MOST_WORDS else short


def _reading(change: Comparison) -> str:
    size = f"{abs(100 * change.difference):.1f} points"
    if change.direction == "better":
        return f"better by {size}"
    if change.direction == "worse":
        return f"worse by {size}"
    if is_too_wide(change):
        return f"{plural(change.n, 'problem')} are too few to tell"
    return "no change is shown"


def is_too_wide(change: Comparison) -> bool:
    """Whether an interval says little, whatever its middle."""
    return change.high - change.low > 2 * TOO_WIDE


def _sureness(last: Evaluation, change: Comparison | None, benchmark: str, build: Build) -> str:
    if change is None:
        score = main_score(last, benchmark)
        if score is None:
            return "nothing was compared."
        interval = f"[{100 * score.low:.1f}, {100 * score.high:.1f}]"
        return f"95 % interval {interval} over {plural(score.n, 'problem')}."
    p_value = change.p_corrected
    p_words = "below 0.001" if p_value < 0.001 else f"{p_value:.2g}"
    number = plural(len(build.comparisons), "comparison")
    return (
        f"{points(change.difference)} points, 95 % interval {point_span(change.low, change.high)}, "
        f"on the same {plural(change.n, 'problem')}; p {p_words}, corrected for {number}."
    )


def _built(build: Build, last: Evaluation) -> str:
    """`Built: student, by sft from base, in 17 stages.`"""
    start = weight_ancestors(last.model, build.by_name)
    origin = f", by {last.model_kind} from {start[0]}" if start else f", by {last.model_kind}"
    return f"Built: {last.model}{origin}, in {plural(len(build.steps), 'stage')}."


def _unproven(build: Build, benchmark: str) -> tuple[str, ...]:
    seeds = max((row.finding.seeds for row in claim_rows(build) if row.finding), default=1)
    lines = [] if seeds > 1 else ["One training run: another seed may give another number"]
    if len(benchmarks(build.evaluations)) == 1:
        lines.append(f"Measured on {benchmark} alone: nothing is known of other problems")
    return tuple(lines)


def _helped(build: Build, benchmark: str, claims: Sequence[ClaimRow]) -> tuple[str, ...]:
    lines = [
        f"{row.after}: {points(row.difference)} points {point_span(row.low, row.high)} "
        f"over {row.before}"
        for row in from_start(build, benchmark)
        if row.direction == "better"
    ]
    shown = [row for row in claims if row.finding and row.finding.verdict == "shown"]
    if shown:
        lines.append(f"{len(shown)} of the recipe's {plural(len(claims), 'claim')} shown")
    return tuple(lines)


def _unhelped(build: Build, benchmark: str, claims: Sequence[ClaimRow]) -> tuple[str, ...]:
    changes = from_start(build, benchmark)
    lines = [
        f"{row.after}: {points(row.difference)} points {point_span(row.low, row.high)} "
        f"against {row.before}"
        for row in changes
        if row.direction == "worse"
    ]
    unclear = list(dict.fromkeys(row.after for row in changes if row.direction == "unclear"))
    if unclear:
        lines.append(f"No change shown against their start: {listing(unclear)}")
    decided = [(row, row.finding.verdict) for row in claims if row.finding]
    for word in ("contradicted", "not shown"):
        lines += [f"Claim {word}: {row.text}" for row, verdict in decided if verdict == word]
    worse = [
        row
        for name in dict.fromkeys(row.benchmark for row in build.comparisons)
        if name != benchmark
        for row in from_start(build, name)
        if row.direction == "worse"
    ]
    lines += [f"{row.after} is worse than {row.before} on {row.benchmark}" for row in worse]
    if not lines and changes:
        lines.append("Nothing that was measured: every model beats where it started")
    return tuple(lines or ["No model was compared with its start"])


def _cost(build: Build) -> str:
    total = totals(build)
    if total is None:
        return "nothing is made yet"
    tokens = f", {count(total.tokens)} tokens sampled" if total.tokens else ""
    return f"{duration(total.seconds)}{tokens}, peak memory {total.peak_memory_gib:.1f} GiB"
