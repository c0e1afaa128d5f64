"""Report -> Markdown: the page's story and tables for a terminal or a pull request."""

from collections.abc import Sequence

from factory.report import estimates, preferences
from factory.report.charts import TITLES
from factory.report.claims import claim_difference, claim_gap, claim_value
from factory.report.curves import WINDOW, mean
from factory.report.flow import LANE_OF
from factory.report.records import Evolution, Report, Sample, StageRow, TrainingRun
from factory.report.text import (
    count,
    duration,
    figure,
    markdown_block,
    percent,
    plural,
    size,
    span,
)
from factory.report.text import markdown_text as plain
from factory.report.views import (
    CLEAN_TITLE,
    CONTAMINATION_HEADER,
    CONTAMINATION_INTRO,
    OUTCOME_WORDS,
    PUBLISHED_INTRO,
    RELATIONS,
    STRATA_HEADER,
    browser_intro,
    contamination_rows,
    difference_with_span,
    input_text,
    metric_title,
    recipe_yaml,
    scorecards,
    strata_rows,
    totals,
    value_with_span,
)

READINGS = {"better": "better", "worse": "worse", "unclear": "no clear change"}


def markdown(report: Report) -> str:
    """The whole report as one document."""
    sections = [
        _result(report),
        _claims(report),
        _flow(report),
        _scorecard(report),
        _difficulty(report),
        _contamination(report),
        _published(report),
        _changes(report),
        _training(report.runs),
        _evolution(report.evolutions),
        _selection(report),
        _preferences(report),
        _stories(report),
        _answers(report),
        _cost(report),
        _lineage(report),
        "## Resolved recipe\n\n" + markdown_block(recipe_yaml(report)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """A table whose last `numbers` columns are right-aligned; every cell is escaped."""
    left = len(header) - numbers
    rules = ["---" if column < left else "---:" for column in range(len(header))]
    lines = [header, *rows]
    body = ["| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines]
    return "\n".join([body[0], "| " + " | ".join(rules) + " |", *body[1:]])


def _result(report: Report) -> str:
    lines = [f"# {plain(report.recipe)}: build report"]
    if report.description:
        lines.append(plain(report.description))
    lines.append(f"**{plain(report.headline.sentence)}**")
    if report.headline.remarks:
        lines.append("\n".join(f"- {plain(remark)}" for remark in report.headline.remarks))
    return "\n\n".join(lines)


def _claims(report: Report) -> str:
    if not report.claims:
        return ""
    rows = []
    for row in report.claims:
        found = row.finding
        if found is None:
            rows.append([row.text, row.measure, "", "", "", "", f"not measured: {claim_gap(row)}"])
            continue
        means = [claim_value(x, row.measure) for x in (found.mean_of, found.mean_against)]
        size_text = f"{found.difference.n} x {found.seeds}"
        rows.append(
            [row.text, row.measure, *means, claim_difference(found), size_text, found.verdict]
        )
    header = (
        "claim", "measure", "measured", "against", "difference", "problems x seeds", "verdict",
    )  # fmt: skip
    return "## Claims\n\n" + table(header, rows)


def _flow(report: Report) -> str:
    """A Mermaid chart. Boxes are called s0, s1, ...: names appear only inside quoted labels."""
    rows = [row for row in report.stages if row.produces in LANE_OF]
    numbers = {row.name: f"s{position}" for position, row in enumerate(rows)}
    lines = [f'  {numbers[row.name]}["{_label(row)}"]:::{LANE_OF[row.produces]}' for row in rows]
    for row in rows:
        for source in dict.fromkeys(row.inputs.values()):
            if source in numbers:
                lines.append(f"  {numbers[source]} --> {numbers[row.name]}")
    classes = [
        "  classDef problems stroke:#a2600a",
        "  classDef model stroke:#2a5ea8",
        "  classDef traces stroke:#23744f",
    ]
    return "\n".join(["## Flow\n", "```mermaid", "flowchart TD", *lines, *classes, "```"])


def _label(row: StageRow) -> str:
    state = "" if row.made is not None else ", not made"
    text = f"{row.name} ({row.kind}{state})"
    return "".join(c if c.isalnum() or c in " ._-()," else f"#{ord(c)};" for c in text)


def _scorecard(report: Report) -> str:
    parts = []
    for card in scorecards(report):
        titles = [metric_title(metric) for metric in card.metrics]
        header = ["checkpoint", "n x k", *titles, CLEAN_TITLE]
        rows = [
            [
                row.evaluation.label,
                row.sizes,
                *("not measured" if c is None else value_with_span(c) for c in row.cells),
                ", on ".join(part for part in row.clean if part),
            ]
            for row in card.rows
        ]
        parts.append(f"### {plain(card.benchmark)}, version {plain(card.versions)}")
        parts.append(table(header, rows, numbers=len(card.metrics) + 1))
        outcomes = [
            [row.evaluation.label, one.settings, one.words]
            for row in card.rows
            for one in row.outcomes
        ]
        parts.append(table(["checkpoint", "sampling", "outcomes, strict grading"], outcomes))
    if not parts:
        return ""
    intro = "Every evaluated checkpoint in stage order, with 95 % intervals over problems."
    return "\n\n".join(["## Scorecard", intro, *parts])


def _difficulty(report: Report) -> str:
    parts = []
    for benchmark in dict.fromkeys(one.benchmark for one in report.strata):
        rows = strata_rows(report, benchmark)
        parts.append(f"### {plain(benchmark)}\n\n{table(STRATA_HEADER, rows)}")
    return "\n\n".join(["## By difficulty", *parts]) if parts else ""


def _contamination(report: Report) -> str:
    parts = []
    for benchmark in dict.fromkeys(one.benchmark for one in report.contaminations):
        rows = contamination_rows(report, benchmark)
        parts.append(f"### {plain(benchmark)}\n\n{table(CONTAMINATION_HEADER, rows)}")
    return "\n\n".join(["## Contamination", CONTAMINATION_INTRO, *parts]) if parts else ""


def _published(report: Report) -> str:
    if not report.reproductions:
        return ""
    rows = []
    for one in report.reproductions:
        texts = [one.benchmark, one.model, one.source, one.verdict, one.reason]
        rows.append([*texts, percent(one.published), percent(one.ours), f"{one.n} x {one.k}"])
    header = ["benchmark", "model", "source", "verdict", "why", "published", "ours", "n x k"]
    return f"## Against published scores\n\n{PUBLISHED_INTRO}\n\n" + table(header, rows, numbers=3)


def _changes(report: Report) -> str:
    if not report.comparisons:
        return ""
    rows = [
        [
            row.after,
            row.before,
            RELATIONS[row.relation],
            row.benchmark,
            row.mode,
            READINGS[row.direction],
            difference_with_span(row),
            f"{row.p_corrected:.3g}",
            str(row.n),
            str(row.improved),
            str(row.declined),
        ]
        for row in report.comparisons
    ]
    header = ["checkpoint", "against", "which is", "benchmark", "answers", "reading"]
    header += ["difference, points", "p, corrected", "problems", "rose", "fell"]
    intro = (
        "Two checkpoints on the same problems: mean of the per-problem differences, strict "
        "grading, with its 95 % interval. A change is called one where the interval leaves out "
        f"zero and the paired test, corrected for {len(rows)} comparisons (Holm), has p below 0.05."
    )
    return "\n\n".join(["## What each stage changed", intro, table(header, rows, numbers=5)])


def _training(runs: Sequence[TrainingRun]) -> str:
    parts = []
    for run in runs:
        rows = []
        for series in (*run.series, *run.seconds):
            ends = (series.values[:WINDOW], series.values[-WINDOW:])
            title = TITLES.get(series.name, series.name)
            rows.append([title, str(len(series.steps)), *(figure(mean(end)) for end in ends)])
        parts.append(f"### {plain(run.stage)} ({plain(run.kind)})")
        header = ["quantity", "steps", "first 8 steps, mean", "last 8 steps, mean"]
        parts.append(table(header, rows, numbers=3))
    return "\n\n".join(["## Training", *parts]) if parts else ""


def _evolution(evolutions: Sequence[Evolution]) -> str:
    parts = []
    for one in evolutions:
        found = []
        if one.measured:
            header = ["updates done", "n x k", "pass@1", "95 %", "cons@k", "tokens"]
            rows = [
                [
                    str(row.step),
                    f"{row.n} x {row.samples}",
                    percent(row.accuracy),
                    span(row.low, row.high),
                    percent(row.consensus),
                    figure(round(row.completion_length, 1)),
                ]
                for row in one.measured
            ]
            found.append(table(header, rows, numbers=len(header)))
            found.append(plain(one.alarm.sentence) if one.alarm else "No alarm.")
        if one.length_fall:
            fall = one.length_fall
            found.append(f"Responses got shorter: {fall.longest:.0f} to {fall.last:.0f} tokens.")
            found.append("\n".join(f"- {plain(cause)}" for cause in fall.causes))
        for told in one.telling:
            again = f"{plural(told.redone, 'step')} done again"
            found.append(f"Step {told.step}, {plain(told.rule)}; {again}:")
            found.append(markdown_block(told.passage))
        if found:
            parts += [f"### {plain(one.stage)}, from {plain(one.start)}", *found]
    return "\n\n".join(["## Self-evolution", *parts]) if parts else ""


def _selection(report: Report) -> str:
    parts = []
    for one in report.selections:
        total = one.kept + sum(why.count for why in one.rejections)
        fates = [("kept", one.kept)]
        fates += [(f"dropped: {why.reason}", why.count) for why in one.rejections]
        rows = [[fate, count(n), percent(n / total if total else 0.0)] for fate, n in fates]
        parts.append(f"### {plain(one.stage)} ({plain(one.kind)})")
        if one.remark:
            parts.append(f"{plain(one.remark)}.")
        parts.append(table(["fate", "traces", "share"], rows, numbers=2))
        if one.rewriting is not None:
            parts.append("The first draft that was rewritten and kept, then its rewriting:")
            parts.append(markdown_block(one.rewriting.draft))
            parts.append(markdown_block(one.rewriting.reply))
    for mixture in report.mixtures:
        rows = [
            [row.domain, count(row.kept), percent(row.share), percent(row.r1_share)]
            for row in mixture.rows
        ]
        parts.append(f"### {plain(mixture.stage)} by domain")
        parts.append(table(["domain", "traces", "share", "R1's SFT set"], rows, numbers=3))
    return "\n\n".join(["## What selection kept", *parts]) if parts else ""


def _preferences(report: Report) -> str:
    parts = []
    data, models = preferences.data_rows(report), preferences.model_rows(report)
    if data:
        parts.append(table(preferences.DATA_HEADER, data))
    if models:
        parts.append(table(preferences.MODEL_HEADER, models))
    parts += [plain(told) for told in preferences.stopped(report)]
    return "\n\n".join(["## Preferences", *parts]) if parts else ""


def _stories(report: Report) -> str:
    parts = []
    for story in report.stories:
        parts.append(f"### {plain(story.title)}: {plain(story.rule)}")
        parts.append(f"Problem {plain(story.problem_id)} of {plain(story.benchmark)}:")
        parts.append(markdown_block(story.question))
        parts.extend(_sample(sample) for sample in story.samples)
    return "\n\n".join(["## The same problem at every checkpoint", *parts]) if parts else ""


def _answers(report: Report) -> str:
    if report.browser is None:
        return ""
    where = "The page report.html has a browser for them."
    return f"## Answers\n\n{plain(browser_intro(report.browser))} {where}"


def _sample(sample: Sample) -> str:
    facts = f"{OUTCOME_WORDS[sample.outcome]}, {plural(sample.tokens, 'token')}"
    lines = [f"**{plain(sample.label)}**: {facts}. {plain(sample.explanation)}"]
    lines.append(markdown_block(sample.completion))
    if sample.cut:
        lines.append(f"{count(sample.cut)} further characters are not shown.")
    return "\n\n".join(lines)


def _cost(report: Report) -> str:
    whole = totals(report)
    if whole is None:
        return ""
    rows = []
    for row in report.stages:
        made = row.made
        if made is None:
            rows.append([row.name, row.kind, "not made", "", "", "", ""])
            continue
        tokens = [
            "" if number is None else count(number)
            for number in (made.sampled_tokens, made.learned_tokens)
        ]
        memory = f"{made.peak_memory_gib:.2f} GiB"
        cells = [duration(made.seconds), *tokens, memory, size(made.size_bytes)]
        rows.append([row.name, row.kind, *cells])
    memory = f"{whole.peak_memory_gib:.2f} GiB"
    cells = [duration(whole.seconds), count(whole.tokens), "", memory, size(whole.size_bytes)]
    rows.append(["whole build", "", *cells])
    header = ["stage", "kind", "time", "tokens sampled", "tokens learned", "peak memory", "size"]
    parts = ["## Cost", table(header, rows, numbers=5)]
    expected = estimates.estimate_rows(report)
    if expected:
        parts += ["Expected before each stage was made, and what it took:"]
        parts += [table(estimates.HEADER, expected, numbers=5)]
    return "\n\n".join(parts)


def _lineage(report: Report) -> str:
    rows = []
    for row in report.stages:
        made = row.made
        facts = ["not made", "", ""]
        if made is not None:
            code = made.commit[:12] + (" with local changes" if made.dirty else "")
            facts = [made.fingerprint[:12], made.created, code]
        rows.append([row.name, row.kind, input_text(row), *facts])
    header = ["stage", "kind", "reads", "fingerprint", "made", "code"]
    parts = ["## Lineage and versions", table(header, rows)]
    if report.packages:
        packages = [[name, ", ".join(found)] for name, found in report.packages.items()]
        machine = [[name, ", ".join(found)] for name, found in report.machine.items()]
        parts.append(table(["package", "version"], packages))
        parts.append(table(["machine setting", "value"], machine))
    return "\n\n".join(parts)
