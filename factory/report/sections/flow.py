"""The flow of a build as a picture: one row a stage, one lane a kind, edges that cross no box.

Every stage has a row of its own, in plan order, so a horizontal stretch of an edge can only meet
the box it leads to. Vertical stretches run in the gutters between lanes, one track a source,
shared by all edges of that source. Evaluations are not boxes: they are the figure in the box of
the model they measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from factory.core.blocks import Code, Figure, Figures, Legend, Section, Text
from factory.core.readable import count, percent, plural
from factory.report.build import Build
from factory.report.curves import training_runs
from factory.report.records import StageRow
from factory.report.scorecard import main_benchmark, main_score
from factory.report.section import section
from factory.report.svg import drawing, number, tag, text

ROW, BOX = 46, 36
TRACK = 9
MARGIN = 14
LANES = ("problems", "model", "traces")
LANE_OF: Mapping[str, str] = {
    **{kind: kind for kind in LANES},
    "reward_model": "model",
    "pairs": "traces",
    "labels": "traces",
}
"""The lane of each kind of artifact; scores have none."""
WIDTHS = {"problems": 168, "model": 236, "traces": 196}


@dataclass(frozen=True)
class Box:
    """A stage's rectangle."""

    row: StageRow
    lane: int
    left: float
    top: float
    width: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def middle(self) -> float:
        return self.top + BOX / 2


@dataclass(frozen=True)
class Track:
    """The vertical line in gutter `gutter` that carries a source's edges to `targets`."""

    source: str
    gutter: int
    targets: tuple[str, ...]


@section("flow", after="claims")
def flow_section(build: Build) -> Section:
    text = (
        "Each box is a stage, top to bottom in the order they are made; a line says that one "
        "reads the other."
    )
    benchmark = main_benchmark(build.evaluations)
    if benchmark is not None:
        text += (
            f" The share in a model's box is its score on {benchmark}, one for each prompt it was "
            "measured with."
        )
    legend = [
        ("problems", "problems"),
        ("model", "models, reward models"),
        ("traces", "traces, pairs, labels"),
    ]
    if build.missing:
        legend.append(("", "dashed: not made yet"))
    chart = Code(mermaid(build.stages), language="mermaid")
    picture = Figures((Figure("Flow of the build", flow(build)),), "full", instead=(chart,))
    return Section("Flow", (Text(text), picture, Legend(tuple(legend))))


def mermaid(stages: Sequence[StageRow]) -> str:
    """The chart in words. Boxes are called s0, s1, ...: names appear only inside quoted labels."""
    rows = [row for row in stages if row.produces in LANE_OF]
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
    return "\n".join(["flowchart TD", *lines, *classes])


def _label(row: StageRow) -> str:
    state = "" if row.made is not None else ", not made"
    label = f"{row.name} ({row.kind}{state})"
    return "".join(c if c.isalnum() or c in " ._-()," else f"#{ord(c)};" for c in label)


def flow(build: Build) -> Markup:
    """The picture; every stage but the evaluations is in it."""
    rows = [row for row in build.stages if row.produces in LANE_OF]
    lanes = {row.name: LANES.index(LANE_OF[row.produces]) for row in rows}
    order = {row.name: position for position, row in enumerate(rows)}
    straight, tracks = _routes(rows, lanes, order)
    slots = _slots(tracks, order)
    gutters = [
        max(
            (slot + 1 for track, slot in zip(tracks, slots, strict=True) if track.gutter == g),
            default=0,
        )
        for g in range(len(LANES) + 1)
    ]
    used = [lane for lane in range(len(LANES)) if lane in lanes.values()]
    lefts, starts, width = _columns(gutters, used)
    boxes = {
        row.name: Box(
            row,
            lanes[row.name],
            lefts[lanes[row.name]],
            MARGIN + ROW * order[row.name],
            WIDTHS[LANE_OF[row.produces]],
        )
        for row in rows
    }
    edges = [_straight(boxes[a], boxes[b]) for a, b in straight]
    ports = _ports(tracks)
    for track, slot in zip(tracks, slots, strict=True):
        edges.extend(_track_edges(track, boxes, starts[track.gutter] + TRACK * slot, ports))
    figures = _figures(build)
    details = _details(build)
    shapes = [
        _box(box, fact=figures.get(name, ""), detail=details.get(name, box.row.kind))
        for name, box in boxes.items()
    ]
    height = 2 * MARGIN + ROW * len(rows) - (ROW - BOX)
    title = f"Flow of {plural(len(rows), 'stage')}, top to bottom in the order they are made"
    return drawing(width, height, title, *edges, *shapes)


def _routes(
    rows: Sequence[StageRow], lanes: Mapping[str, int], order: Mapping[str, int]
) -> tuple[list[tuple[str, str]], list[Track]]:
    """Edges straight down inside a lane, and the tracks that carry all other edges."""
    straight: list[tuple[str, str]] = []
    carried: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        for source in dict.fromkeys(row.inputs.values()):
            if source not in lanes:
                continue
            lane = lanes[source]
            between = [
                name
                for name in order
                if order[source] < order[name] < order[row.name] and lanes[name] == lane
            ]
            if lane == lanes[row.name] and not between:
                straight.append((source, row.name))
                continue
            carried.setdefault((source, _gutter(lane, lanes[row.name])), []).append(row.name)
    tracks = [Track(source, gutter, tuple(names)) for (source, gutter), names in carried.items()]
    return straight, tracks


def _gutter(source: int, target: int) -> int:
    """Gutter g lies left of lane g. An edge within a lane takes the outer side of its lane."""
    if source == target:
        return source + 1 if source == len(LANES) - 1 else source
    return source + 1 if target > source else source


def _slots(tracks: Sequence[Track], order: Mapping[str, int]) -> list[int]:
    """A slot in its gutter for each track, so that no two overlap: first fit by first row."""
    taken: dict[int, list[list[tuple[int, int]]]] = {}
    slots = []
    for track in tracks:
        low = order[track.source]
        high = max(order[name] for name in track.targets)
        lines = taken.setdefault(track.gutter, [])
        free = (
            slot
            for slot, spans in enumerate(lines)
            if all(high < first or low > last for first, last in spans)
        )
        slot = next(free, len(lines))
        if slot == len(lines):
            lines.append([])
        lines[slot].append((low, high))
        slots.append(slot)
    return slots


def _columns(gutters: Sequence[int], used: Sequence[int]) -> tuple[list[float], list[float], float]:
    """Left edge of each lane, first track of each gutter, and the whole width."""
    lefts, starts, x = [], [], float(MARGIN)
    for lane, kind in enumerate(LANES):
        starts.append(x + TRACK)
        if gutters[lane] or lane in used[1:]:
            x += TRACK * (gutters[lane] + 1)
        lefts.append(x)
        if lane in used:
            x += WIDTHS[kind]
    starts.append(x + TRACK)
    return lefts, starts, x + TRACK * (gutters[-1] + 1 if gutters[-1] else 0) + MARGIN


def _ports(tracks: Sequence[Track]) -> dict[tuple[str, str], float]:
    """Height offsets at which edges enter a box: apart from each other and from what leaves."""
    entering: dict[str, list[str]] = {}
    for track in tracks:
        for target in track.targets:
            entering.setdefault(target, []).append(track.source)
    ports = {}
    for target, sources in entering.items():
        for position, source in enumerate(sources):
            ports[source, target] = -10.0 + 18.0 * position / max(len(sources) - 1, 2)
    return ports


def _straight(source: Box, target: Box) -> Markup:
    x = source.left + source.width / 2
    points = [(x, source.top + BOX), (x, target.top - 1)]
    return _edge(points, LANE_OF[source.row.produces])


def _track_edges(
    track: Track, boxes: Mapping[str, Box], x: float, ports: Mapping[tuple[str, str], float]
) -> list[Markup]:
    source = boxes[track.source]
    start_x = source.left if x < source.left else source.right
    start_y = source.middle + 11
    edges = []
    for name in track.targets:
        target = boxes[name]
        end_x = target.right + 1 if x > target.right else target.left - 1
        end_y = target.middle + ports[track.source, name]
        points = [(start_x, start_y), (x, start_y), (x, end_y), (end_x, end_y)]
        edges.append(_edge(points, LANE_OF[source.row.produces]))
    return edges


def _edge(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """A line with rounded corners and an arrow head, on a halo that parts it from others."""
    shape = _rounded(points)
    (x0, y0), (x1, y1) = points[-2:]
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    head = (
        f"M{number(x1)} {number(y1)}"
        f"L{number(x1 - 6 * dx - 3.5 * dy)} {number(y1 - 6 * dy - 3.5 * dx)}"
        f"L{number(x1 - 6 * dx + 3.5 * dy)} {number(y1 - 6 * dy + 3.5 * dx)}Z"
    )
    return tag(
        "g",
        tag("path", d=shape, class_="halo"),
        tag("path", d=shape, class_=f"edge {kind}"),
        tag("path", d=head, class_=f"head {kind}"),
    )


def _rounded(points: Sequence[tuple[float, float]], radius: float = 5.0) -> str:
    """Path commands through axis-parallel points with quarter-circle corners."""
    commands = [f"M{number(points[0][0])} {number(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        turn = []
        for near in (before, after):
            dx, dy = near[0] - corner[0], near[1] - corner[1]
            length = abs(dx) + abs(dy)
            share = min(radius, length / 2) / length if length else 0.0
            turn.append((corner[0] + dx * share, corner[1] + dy * share))
        commands.append(f"L{number(turn[0][0])} {number(turn[0][1])}")
        commands.append(
            f"Q{number(corner[0])} {number(corner[1])} {number(turn[1][0])} {number(turn[1][1])}"
        )
    commands.append(f"L{number(points[-1][0])} {number(points[-1][1])}")
    return "".join(commands)


def _box(box: Box, *, fact: str, detail: str) -> Markup:
    is_made = box.row.made is not None
    state = "" if is_made else " missing"
    kind = detail if is_made else f"{box.row.kind}, not made"
    frame = {"x": box.left, "y": box.top, "width": box.width, "height": BOX, "rx": 6}
    room = int(box.width / 7.6)
    name = box.row.name if len(box.row.name) <= room else box.row.name[: room - 1] + "…"
    return tag(
        "g",
        tag("title", f"{box.row.name}: {kind}"),
        tag("rect", class_=f"box {LANE_OF[box.row.produces]}{state}", **frame),
        text(box.left + 11, box.top + 16, name, class_="name"),
        text(box.left + 11, box.top + 29, kind, class_="tick"),
        text(box.right - 10, box.top + 29, fact, class_="fact", anchor="end"),
    )


def _details(build: Build) -> dict[str, str]:
    """The second line of a box where it says more than the stage's kind."""
    details = {}
    for run in training_runs(build):
        if run.series:
            last = max(series.steps[-1] for series in run.series)
            details[run.stage] = f"{run.kind}, {plural(last, 'step')}"
    for row in build.stages:
        metrics = row.made.metrics if row.made is not None else {}
        train, held_out = metrics.get("train"), metrics.get("held_out")
        if train is not None and held_out is not None:
            details[row.name] = f"{count(train)} train, {count(held_out)} held out"
    return details


def _figures(build: Build) -> dict[str, str]:
    """The one number worth its room in each box."""
    figures: dict[str, str] = {}
    for row in build.stages:
        if row.made is None:
            continue
        metrics = row.made.metrics
        dropped = sum(v or 0 for k, v in metrics.items() if k.startswith("rejected."))
        kept = metrics.get("kept")
        if kept is not None and dropped:
            figures[row.name] = f"{count(kept)} of {count(kept + dropped)} kept"
        elif kept is not None or metrics.get("traces") is not None:
            figures[row.name] = plural(round(kept or metrics["traces"] or 0), "trace")
    benchmark = main_benchmark(build.evaluations)
    for evaluation in build.evaluations:
        score = main_score(evaluation, benchmark) if benchmark is not None else None
        if score is not None:
            best = figures.get(evaluation.model, "")
            shown = percent(score.value, 0)
            figures[evaluation.model] = f"{best} / {shown}" if best.endswith("%") else shown
    return figures
