"""The claims of a recipe as measured on its evaluations."""

from collections.abc import Mapping

from factory.core.blocks import Cell, Section, Table, Text
from factory.core.errors import DataError
from factory.core.jsonl import read_records
from factory.core.records import EvalSample, Record
from factory.evaluation.claim import Claim
from factory.evaluation.claims import Finding, decide, measured
from factory.evaluation.measure import MEASURES
from factory.report.build import Build, once
from factory.report.records import Step
from factory.report.section import section

INTRO = (
    "What the recipe set out to show, measured on the same problems: the mean difference between "
    "two groups of checkpoints with its 95 % interval, over problems and, with more than one, over "
    "training seeds. Shown: the interval lies on the claimed side of zero. Contradicted: it lies "
    "on the other."
)
HEADER = (
    "claim", "measure", "measured", "against", "difference", "problems x seeds", "verdict",
)  # fmt: skip
LOOKS = {"shown": "better", "contradicted": "worse", "not shown": "unclear"}


class ClaimRow(Record):
    """A claim of the recipe and what was measured; no finding while an evaluation is missing, or
    where there is nothing to measure."""

    text: str
    measure: str
    benchmark: str
    of: tuple[str, ...]
    against: tuple[str, ...]
    missing: tuple[str, ...]
    finding: Finding | None


@section("claims", after="result")
def claims(build: Build) -> Section | None:
    rows = claim_rows(build)
    if not rows:
        return None
    table = Table(HEADER, tuple(map(_cells, rows)), numbers=(2, 3, 4, 5), label="Claims")
    return Section("Claims", (Text(INTRO), table), facts=tuple(rows))


@once
def claim_rows(build: Build) -> list[ClaimRow]:
    """One row a claim; without a finding where an evaluation is not made or nothing to measure."""
    rows = []
    for claim in build.claims:
        needed = dict.fromkeys((*claim.of, *claim.against))
        missing = tuple(
            name for name in needed if name not in build.by_name or not build.by_name[name].artifact
        )
        rows.append(
            ClaimRow(
                text=claim.text + _plugins(claim),
                measure=claim.measure,
                benchmark=claim.benchmark,
                of=claim.of,
                against=claim.against,
                missing=missing,
                finding=None if missing else _finding(claim, build.by_name),
            )
        )
    return rows


def _cells(row: ClaimRow) -> tuple[Cell, ...]:
    sides = f"{', '.join(row.of)} against {', '.join(row.against)}"
    head = (Cell(row.text, sides), Cell(row.measure.replace("_", " ")))
    result = row.finding
    if result is None:
        return (*head, Cell(f"not measured: {claim_gap(row)}", look="dim", span=5))
    return (
        *head,
        *(Cell(claim_value(x, row.measure)) for x in (result.mean_of, result.mean_against)),
        Cell(claim_difference(result)),
        Cell(f"{result.difference.n} x {result.seeds}"),
        Cell(result.verdict, look=f"reading {LOOKS[result.verdict]}"),
    )


def _plugins(claim: Claim) -> str:
    """Which of its measures are a user's, by origin, version and hash: a report alone shows it."""
    rows = [
        MEASURES.row(name) for name in {claim.measure: 0, claim.against_measure or "": 0} if name
    ]
    notes = [
        f"{row.name}: version {row.version} of {row.origin.label}, sha256 {row.origin.sha256[:12]}"
        for row in rows
        if row.origin.kind != "factory"
    ]
    return f" ({'; '.join(notes)})" if notes else ""


def _finding(claim: Claim, steps: Mapping[str, Step]) -> Finding | None:
    """DataError where the evaluations share no problems: such a claim cannot be measured at all."""
    samples = {name: _samples(claim, steps[name]) for name in (*claim.of, *claim.against)}
    problems = [{row.trace.problem_id for row in rows} for rows in samples.values()]
    if not set.intersection(*problems):
        raise DataError(f"claim {claim.text!r}: its evaluations share no problems")
    ours = [measured(samples[name], claim.measure) for name in claim.of]
    other = claim.against_measure or claim.measure
    theirs = [measured(samples[name], other) for name in claim.against]
    pairs = list(zip(ours, theirs * (len(ours) // len(theirs)), strict=True))
    fewest = min(
        len(rows) // max(1, len({row.trace.problem_id for row in rows}))
        for rows in samples.values()
    )
    return decide(claim, pairs, samples=max(1, fewest))


def _samples(claim: Claim, step: Step) -> list[EvalSample]:
    if step.artifact is None:
        raise AssertionError("only claims whose evaluations are made are measured")
    rows = read_records(step.artifact.file("samples.jsonl"), EvalSample)
    return [row for row in rows if row.benchmark == claim.benchmark and row.mode == "sampled"]


def claim_gap(row: ClaimRow) -> str:
    """Why a claim has no finding."""
    if row.missing:
        return f"{', '.join(row.missing)} not made"
    return "fewer than two problems have such a value on both sides"


def claim_value(value: float, measure: str) -> str:
    """A mean as shown: `17.7 %`, or `4.2`."""
    return f"{100 * value:.1f} %" if MEASURES[measure].is_share else f"{value:.2f}"


def claim_difference(finding: Finding) -> str:
    """`+61.7 [58.9, 64.5] points, p < 0.001`, or `+3.65 [3.28, 4.02], p 0.02`.

    Without p where the claim is that something is not lost: that is decided by the interval.
    """
    scale, digits, unit = (
        (100, 1, " points") if MEASURES[finding.claim.measure].is_share else (1, 2, "")
    )
    value, low, high = (
        scale * x
        for x in (finding.difference.value, finding.difference.low, finding.difference.high)
    )
    text = f"{value:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{unit}"
    if finding.claim.expect == "not lower":
        return text
    p_value = finding.p_value
    return f"{text}, p < 0.001" if p_value < 0.001 else f"{text}, p {p_value:.2g}"
