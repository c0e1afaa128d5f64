"""Tables of scores for the terminal: one evaluation, and two against each other."""

from collections.abc import Sequence
from pathlib import Path

from factory.core.artifacts import Artifact, find
from factory.core.errors import RecipeError
from factory.evaluation.compare import Comparison, compare, is_apart
from factory.evaluation.frontier import CurvePoint, curves, read_spent
from factory.evaluation.paired import advice
from factory.evaluation.published import Reproduction, hub_id, load_published, reproductions
from factory.evaluation.statistics import Interval
from factory.evaluation.summary import Summary, summaries
from factory.ui.console import Console, Text
from factory.ui.grid import Column, columns, print_table
from factory.ui.tables import resolve
from factory.ui.verbs import print_json


def show_summaries(rows: Sequence[Summary], console: Console) -> None:
    """One row a benchmark and mode: strict and lenient, both error bars, and curves over k."""
    heads = [
        Column("benchmark"), Column("answers"), Column("strict", is_number=True),
        Column("95 % interval", is_number=True), Column("sampling error", is_number=True, rank=2),
        Column("question error", is_number=True, rank=3), Column("lenient", is_number=True, rank=1),
        Column("n x k", is_number=True),
    ]  # fmt: skip
    lines = []
    for row in rows:
        errors = (row.errors.sampling, row.errors.question)
        lines.append(
            [
                row.benchmark,
                row.mode,
                f"{100 * row.strict.value:.1f}",
                f"[{100 * row.strict.low:.1f}, {100 * row.strict.high:.1f}]",
                *("not known" if error is None else f"± {100 * error:.1f}" for error in errors),
                f"{100 * row.lenient.value:.1f}",
                f"{row.n} x {row.k}",
            ]
        )
    print_table(console, heads, lines)
    for row in rows:
        if row.curve:
            text = ", ".join(
                f"k = {p.k}: {100 * p.pass_at:.1f} / {100 * p.cons_at:.1f}" for p in row.curve
            )
            console.print(
                f"{row.benchmark} pass@k / cons@k: {text}", highlight=False, soft_wrap=True
            )
    for row in rows:
        if row.trap:
            console.print(Text(f"{row.benchmark}, {row.mode}: {row.trap}", "red"))


def compare_runs(
    run: str,
    baseline: str,
    store: Path,
    console: Console,
    *,
    fail_below: float | None,
    as_json: bool = False,
) -> bool:
    """Show how two scores artifacts differ; whether one fell by more than `fail_below` points.

    RecipeError where they have no benchmark in common, or are one and the same.
    """
    if fail_below is not None and not -100 <= fail_below <= 0:
        raise RecipeError(f"--fail-below {fail_below:g}: points from -100 to 0, e.g. -1.0")
    allowed = None if fail_below is None else fail_below / 100
    first, second = (resolve(name, store, kind="scores") for name in (run, baseline))
    if first.fingerprint == second.fingerprint:
        raise RecipeError(f"{run} and {baseline} are both {first.path.name}: nothing to compare")
    rows = compare(first, second, allowed_fall=allowed)
    if not rows:
        raise RecipeError(f"{run} and {baseline}: no benchmark in common")
    # Two builds of one stage have one name, and folders of their own.
    alike = first.name == second.name
    sides = {s.path.name if alike else s.name: read_spent(s) for s in (first, second)}
    thinking = curves(sides)
    if as_json:
        fallen = [f"{row.benchmark} {row.metric}" for row in rows if row.has_fallen]
        lines = [{**row.model_dump(), "is_difference": row.is_difference} for row in rows]
        print_json(
            console, rows=lines, fail_below=fail_below, fallen=fallen,
            thinking=[point.model_dump() for point in thinking],
        )  # fmt: skip
        return bool(fallen)
    show_comparisons(rows, console)
    show_thinking(thinking, console)
    return allowed is not None and bool(show_falls(rows, allowed, console))


def compare_published(
    run: str, model: str, store: Path, console: Console, *, as_json: bool = False
) -> None:
    """Show a scores artifact beside what was published of its model, `model` where that is given.

    RecipeError where the model is not known, or nothing was published of it.
    """
    scores = resolve(run, store, kind="scores")
    published = load_published()
    name = model or hub_model(scores, store)
    if name is None:
        raise RecipeError(f"{scores.name}: its model is no hub model; say which with --as ID")
    rows = reproductions(summaries(scores), model=name, published=published)
    if not rows:
        models = ", ".join(sorted({row.model for row in published.models}))
        names = ", ".join(published.benchmarks)
        raise RecipeError(
            f"{name}: nothing published to compare with; models: {models}; benchmarks: {names}"
        )
    if as_json:
        print_json(console, rows=[row.model_dump() for row in rows])
        return
    show_reproductions(rows, console)


def show_comparisons(rows: Sequence[Comparison], console: Console) -> None:
    """One row a metric, and what each strict comparison is able to see."""
    heads = [
        Column("benchmark"), Column("metric"), Column(rows[0].a, is_number=True, rank=2),
        Column(rows[0].b, is_number=True, rank=2), Column("points", is_number=True),
        Column("95 % interval", is_number=True), Column("bootstrap", is_number=True, rank=5),
        Column("p", is_number=True, rank=4), Column("p, corrected", is_number=True, rank=1),
        Column("n x k", is_number=True, rank=3), Column("reading", is_prose=True),
    ]  # fmt: skip
    lines = []
    for row in rows:
        lines.append(
            [
                row.benchmark,
                row.metric,
                f"{100 * row.value_a:.1f}",
                f"{100 * row.value_b:.1f}",
                f"{100 * row.difference.value:+.1f}",
                _span(row.difference),
                _span(row.bootstrap),
                f"{row.p_value:.3g}",
                f"{row.p_corrected:.3g}",
                f"{row.n} x {'/'.join(str(k) for k in dict.fromkeys(row.samples))}",
                reading(row),
            ]
        )
    print_table(console, heads, lines)
    for row in rows:
        if not row.metric.endswith("_lenient"):
            text = advice(row.power, n=row.n, samples=row.samples)
            console.print(f"{row.benchmark} {row.metric}: {text}", highlight=False, soft_wrap=True)
            if row.samples_drawn[0] != row.samples_drawn[1]:
                console.print(
                    f"{row.benchmark} {row.metric}: {row.a} has {row.samples_drawn[0]} samples a "
                    f"problem, {row.b} {row.samples_drawn[1]}: the first {row.samples[0]} of both "
                    "are compared",
                    markup=False, highlight=False, soft_wrap=True,
                )  # fmt: skip


def show_thinking(points: Sequence[CurvePoint], console: Console) -> None:
    """One row a model and budget of thinking tokens; nothing where none was set."""
    if not points:
        return
    heads = [
        Column("benchmark"), Column("model"), Column("budget", is_number=True),
        Column("thinking tokens", is_number=True), Column("accuracy", is_number=True),
        Column("95 % interval", is_number=True, rank=1),
        Column("tokens a right answer", is_number=True, rank=2), Column("standing", is_prose=True),
    ]  # fmt: skip
    lines = []
    for point in points:
        right = point.tokens_per_right
        lines.append(
            [
                point.benchmark,
                point.model,
                "none" if point.budget is None else str(point.budget),
                f"{point.thinking.value:.1f}",
                f"{100 * point.accuracy.value:.1f}",
                f"[{100 * point.accuracy.low:.1f}, {100 * point.accuracy.high:.1f}]",
                "none is right" if right is None else f"{right:.0f}",
                point.standing,
            ]
        )
    print_table(console, heads, lines)


def reading(row: Comparison) -> Text:
    """`better`, `worse`, or that no difference is shown, and why where the interval says else."""
    if row.is_difference:
        return Text("better", "green") if row.difference.value > 0 else Text("worse", "red")
    if is_apart(row.difference):
        return Text("no difference shown: one of many tests, or of few problems", "dim")
    return Text("no difference shown", "dim")


def show_falls(rows: Sequence[Comparison], allowed: float, console: Console) -> list[Comparison]:
    """The strict rows tested against the allowed fall, in words; returns those that fell."""
    tested = [row for row in rows if row.fall_p is not None]
    for row in tested:
        verdict = "FELL" if row.has_fallen else "no evidence of it"
        console.print(
            f"{row.benchmark} {row.metric}: a change below {100 * allowed:+g} points? {verdict}: "
            f"{100 * row.difference.value:+.1f} points {_span(row.difference)}, "
            f"p = {row.fall_p:.3g} corrected for {len(tested)} tests, n = {row.n}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return [row for row in tested if row.has_fallen]


def hub_model(scores: Artifact, store: Path) -> str | None:
    """The hub id of the model that was scored; None where it is another, or not in the store."""
    entry = scores.manifest.inputs.get("model")
    model = find(store, entry.fingerprint) if entry is not None else None
    return None if model is None else hub_id(model.manifest.config)


def show_reproductions(rows: Sequence[Reproduction], console: Console) -> None:
    """One row a published score: theirs, ours, and the verdict with its noise band."""
    heads = columns(
        "benchmark", "model", "source", "published", "ours", "n x k", "verdict",
        numbers=("published", "ours", "n x k"), prose=("source", "verdict"),
    )  # fmt: skip
    lines = []
    styles = {"reproduced": "green", "not reproduced": "red", "cannot tell": "yellow"}
    for row in rows:
        figures = [f"{100 * row.published:.1f}", f"{100 * row.ours:.1f}", f"{row.n} x {row.k}"]
        verdict = Text(f"{row.verdict}: {row.reason}", styles[row.verdict])
        lines.append([row.benchmark, row.model, row.source, *figures, verdict])
    print_table(console, heads, lines)


def _span(interval: Interval) -> str:
    return f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
