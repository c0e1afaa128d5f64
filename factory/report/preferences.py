"""Preferences in tables: what reward models learned from, how well, and runs ended by an alarm."""

from collections.abc import Mapping

from factory.report.records import Report, StageRow
from factory.report.text import count, percent, plural, span

DATA_HEADER = ("stage", "source", "kept", "dropped", "judge", "balance")
MODEL_HEADER = (
    "reward model",
    "learned from",
    "held-out accuracy",
    "blind guess",
    "score and length",
)

Metrics = Mapping[str, float | None]


def data_rows(report: Report) -> list[list[str]]:
    """One row for every sealed set of pairs or safety labels."""
    return [_data(row, row.made.metrics) for row in _made(report, ("pairs", "labels")) if row.made]


def model_rows(report: Report) -> list[list[str]]:
    """One row for every sealed reward model: its accuracy on prompts that it never saw."""
    return [_model(row, row.made.metrics) for row in _made(report, ("reward_model",)) if row.made]


def stopped(report: Report) -> list[str]:
    """A sentence for each RL stage that an alarm ended."""
    found = []
    for row in report.stages:
        metrics = row.made.metrics if row.made is not None else {}
        last, kept = metrics.get("stopped_step"), metrics.get("weights_step")
        if last is not None and kept is not None:
            found.append(
                f"{row.name} was ended after step {count(last)} by the alarm of its watch; its "
                f"weights are those of step {count(kept)}, the best measurement before."
            )
    return found


def _made(report: Report, kinds: tuple[str, ...]) -> list[StageRow]:
    return [row for row in report.stages if row.kind in kinds and row.made is not None]


def _data(row: StageRow, metrics: Metrics) -> list[str]:
    dropped = {
        name.removeprefix("dropped."): value or 0
        for name, value in metrics.items()
        if name.startswith("dropped.")
    }
    fates = ", ".join(f"{count(n)} {reason}" for reason, n in sorted(dropped.items()))
    kept = plural(round(metrics.get(row.kind) or 0), row.kind.removesuffix("s"))
    return [row.name, _source(row), kept, fates or "none", _judge(metrics), _balance(row, metrics)]


def _source(row: StageRow) -> str:
    source = row.config.get("source")
    if not isinstance(source, Mapping):
        return ""
    named = source.get("path") or source.get("id") or f"judged by {source.get('judge')}"
    return str(named).rpartition("/")[2] if source.get("type") == "local" else str(named)


def _judge(metrics: Metrics) -> str:
    votes = metrics.get("votes")
    if votes is None:
        return "not judged here"
    unreadable = count(metrics.get("unreadable_votes") or 0)
    told = f"{count(votes)} votes, {unreadable} unreadable"
    first = metrics.get("first_place")
    return told if first is None else f"{told}, first place {first:+.2f}"


def _balance(row: StageRow, metrics: Metrics) -> str:
    """How much longer the chosen ones are, or how many are safe."""
    if row.kind == "labels":
        return f"{percent(metrics.get('safe_share') or 0.0)} safe"
    before, after = (metrics.get(name) or 0.0 for name in ("length_gap_before", "length_gap"))
    return f"chosen {100 * after:+.1f} % longer ({100 * before:+.1f} % before balancing)"


def _model(row: StageRow, metrics: Metrics) -> list[str]:
    number = {name: metrics.get(name) or 0.0 for name in metrics}
    learned = "labels" if row.inputs.get("labels") else "pairs"
    accuracy = (
        f"{percent(number['held_out_accuracy'])} "
        f"{span(number['held_out_low'], number['held_out_high'])}, "
        f"n = {count(number['held_out'])}"
    )
    return [
        row.name,
        f"{count(number['rows'])} {learned} of {row.inputs.get(learned, '')}",
        accuracy,
        percent(number["baseline"]),
        f"r = {number['length_correlation']:+.2f}",
    ]
