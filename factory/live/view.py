"""A build's state as sections of blocks, and sections as trees that a page puts together.

The renderer is the report's, so that a live page looks as the report will; its elements are handed
on one by one and no text can become markup on the way.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree import ElementTree

from pydantic import ValidationError

from factory.building.builds import KeptBuild, PlannedStep
from factory.core.blocks import (
    Bar,
    Block,
    Bullets,
    Cell,
    Code,
    Figures,
    Sample,
    Samples,
    Section,
    Table,
    Text,
)
from factory.core.readable import clip, duration, figure, percent, plural, span
from factory.core.records import Trace
from factory.live.state import Stage, State, Watcher
from factory.report.charts import quantity_panels
from factory.report.curves import to_series
from factory.report.html import section_of_page

PHASES = {
    "running": "Running",
    "finished": "Finished",
    "failed": "Failed",
    "stopped": "Stopped",
    "killed": "Ended without a word: it was killed, or its machine stopped",
}
HEADER = ("stage", "kind", "state", "progress", "", "time", "expected")
LOOKS = {
    "made": "better",
    "at work": "strong",
    "failed": "worse",
    "waiting": "dim",
    "not needed": "dim",
}
RATES = (("tokens_per_second", "tokens a second"), ("generated_per_second", "generated a second"))
ROOFLINES = (("roofline/generate", "sampling"), ("roofline/train", "training"))
Sections = dict[str, Section]
SVG = "{http://www.w3.org/2000/svg}"


def sections(watcher: Watcher, state: State) -> Sections:
    """What the page shows of a build, by name, in order."""
    made = {
        "now": _now(state),
        "stages": Section("Stages", (_stages(state),)),
        "scores": _scores(watcher, state.build),
        "curves": _curves(watcher, state),
        "rollouts": _rollouts(watcher, state),
        "log": _log(watcher, state),
    }
    return {name: section for name, section in made.items() if section is not None}


def overview(builds: Mapping[str, KeptBuild], running: Iterable[str], shown: str) -> Section:
    """All builds of a store as rows."""
    at_work = set(running)
    rows = []
    for name, build in builds.items():
        phase = build.outcome or ("running" if name in at_work else "killed")
        look = "strong" if name == shown else ""
        rows.append(
            (Cell(build.recipe, look=look), build.started, phase, str(len(build.steps)), name)
        )
    table = Table(
        ("recipe", "started (UTC)", "state", "stages", "build"), tuple(rows), label="Builds"
    )
    return Section("Builds of this store", (table,))


def _now(state: State) -> Section:
    busy = state.at_work
    made = sum(stage.state == "made" for stage in state.stages)
    words = f"{PHASES[state.phase]}: {made} of {plural(len(state.stages), 'stage')} made"
    if busy is not None:
        words += f", {busy.name} ({busy.kind})"
        words += (
            f" at {int(busy.done):,} of {busy.total:,.0f} {busy.unit}"
            if busy.total
            else " starting"
        )
    look = "worse" if state.phase in ("failed", "killed") else "headline"
    blocks: list[Block] = [Text(f"{words}.", "headline"), Text(_facts(state))]
    if state.phase in ("failed", "killed", "stopped"):
        blocks.append(Text("Go on with:", "worse" if look == "worse" else ""))
        blocks.append(Code(state.build.command))
    blocks += [Text(f"Alarm: {clip(text, 2000)[0]}", "worse") for text in state.alarms]
    if state.notes:
        blocks.append(Bullets(state.notes, "remarks"))
    started = state.build.started[:19].replace("T", " ")
    return Section(state.build.recipe, tuple(blocks), note=f"started {started} UTC")


def _facts(state: State) -> str:
    """Time, rates, money: what a glance is for."""
    parts = [f"{duration(state.seconds)} since the start"]
    if state.phase == "running":
        parts.append(
            "time left not known" if state.left is None else f"about {duration(state.left)} left"
        )
    own = state.figures
    parts += [f"{figure(round(own[name]))} {words}" for name, words in RATES if own.get(name)]
    parts += [
        f"{percent(own[name], 0)} of the roofline in {words}"
        for name, words in ROOFLINES
        if own.get(name)
    ]
    if state.build.price_per_hour is not None:
        spent = state.build.price_per_hour * state.seconds / 3600
        parts.append(f"cost so far {spent:,.2f}")
    return " · ".join(parts)


def _stages(state: State) -> Table:
    return Table(HEADER, tuple(map(_row, state.stages)), numbers=(5, 6), label="Stages")


def _row(stage: Stage) -> tuple[Any, ...]:
    progress, bar = "", Cell()
    if stage.total:
        progress = f"{int(stage.done):,} of {stage.total:,.0f} {stage.unit}"
        bar = Cell(bar=Bar(((stage.produces, stage.done),), progress, stage.total))
    return (
        stage.name,
        Cell(stage.kind, look=f"kind {stage.produces}"),
        Cell(stage.state, look=f"reading {LOOKS[stage.state]}"),
        progress,
        bar,
        "" if stage.seconds is None else duration(stage.seconds),
        "" if stage.expected is None else duration(stage.expected),
    )


def _scores(watcher: Watcher, build: KeptBuild) -> Section | None:
    rows = []
    for step in build.steps:
        if step.produces != "scores" or watcher.manifest(step.folder) is None:
            continue
        for row in watcher.scores(step):
            try:
                value, low, high = (float(row[key]) for key in ("value", "low", "high"))
                name, metric = str(row["benchmark"]), str(row["metric"])
            except (KeyError, TypeError, ValueError):
                continue
            if metric in ("pass@1", "greedy"):
                model = step.inputs.get("model", step.name)
                rows.append(
                    (model, name, metric, Cell(percent(value), span(low, high)), str(row.get("n")))
                )
    if not rows:
        return None
    header = ("model", "benchmark", "metric", "score, 95 %", "problems")
    return Section("Scores so far", (Table(header, tuple(rows), numbers=(3, 4), label="Scores"),))


def _curves(watcher: Watcher, state: State) -> Section | None:
    busy = state.at_work
    runs = [(step, _quantities(watcher, step)) for step in state.build.steps]
    runs = [(step, quantities) for step, quantities in runs if quantities]
    if not runs:
        return None
    names = [step.name for step, _ in runs]
    shown = busy.name if busy is not None and busy.name in names else names[-1]
    parts = [
        Section(
            step.name,
            (Figures(tuple(quantity_panels(quantities))),),
            note=Cell(step.kind, look="kind model"),
            look="fold" if step.name == shown else "closed",
        )
        for step, quantities in runs
    ]
    return Section("Curves", tuple(parts))


def _quantities(watcher: Watcher, step: PlannedStep) -> list[Any]:
    """Everything that a training stage measured, as series; none of another stage."""
    if step.produces not in ("model", "reward_model"):
        return []
    logged = watcher.telemetry(step)
    rows: list[tuple[int, dict[str, Any]]] = []
    for row in logged["telemetry"]:
        values = dict(row)
        number = values.pop("step", None)
        if isinstance(number, int):
            rows.append((number, values))
    watched = [
        (row["step"], {"held_out": row.get("accuracy")})
        for row in logged["watch"]
        if isinstance(row.get("step"), int)
    ]
    events = [
        (row["step"], row["values"])
        for row in logged["events"]
        if row.get("event") == "metrics"
        and isinstance(row.get("step"), int)
        and isinstance(row.get("values"), dict)
    ]
    own = to_series(rows)
    names = {series.name for series in own}
    rest = [
        series for series in (*to_series(watched), *to_series(events)) if series.name not in names
    ]
    return [*own, *rest]


def _rollouts(watcher: Watcher, state: State) -> Section | None:
    busy = state.at_work
    if busy is None:
        candidates = [stage for stage in state.stages if stage.state == "made"][::-1]
    else:
        candidates = [busy]
    for stage in candidates:
        rows, has_longer = watcher.rollouts(state.build, stage)
        samples = [sample for sample in map(_sample, reversed(rows)) if sample is not None]
        if samples or has_longer:
            blocks: list[Block] = [Samples(tuple(samples))]
            if has_longer:
                blocks.append(Text("Further ones are too long to be shown here.", "dim"))
            return Section("Latest answers", tuple(blocks), note=stage.name)
    return None


def _sample(row: Mapping[str, Any]) -> Sample | None:
    content = row.get("trace", row)
    try:
        trace = Trace.model_validate(content, strict=False)
    except ValidationError:
        return None
    rewards = row.get("rewards")
    label = f"step {row['step']}" if isinstance(row.get("step"), int) else trace.problem_id
    if isinstance(rewards, dict):
        shares = [
            f"{key} {value:.3g}" for key, value in rewards.items() if isinstance(value, float)
        ]
        label += f": {', '.join(shares)}" if shares else ""
    return Sample.of(clip(label, 200)[0], trace)


def _log(watcher: Watcher, state: State) -> Section | None:
    busy = state.at_work
    text = watcher.log(state.build, busy) if busy is not None else ""
    return Section("Log", (Code(text, "quote"),), note=busy.name) if busy and text.strip() else None


def tree(name: str, section: Section) -> list[Any]:
    """A section as [element, attributes, children]; children are texts and elements."""
    return _tree(ElementTree.fromstring(section_of_page(name, section)))


def _tree(element: ElementTree.Element) -> list[Any]:
    children: list[Any] = [element.text] if element.text else []
    for child in element:
        children.append(_tree(child))
        if child.tail:
            children.append(child.tail)
    tag = f"svg:{element.tag.removeprefix(SVG)}" if element.tag.startswith(SVG) else element.tag
    return [tag, dict(element.attrib), children]
