"""What thinking tokens buy: accuracy at each budget, and which model is ahead at what length."""

from factory.core.blocks import Section, Text
from factory.evaluation.frontier import CurvePoint, curves, read_spent
from factory.report.against import INTRO, thinking_blocks
from factory.report.build import Build, once
from factory.report.section import section


@section("thinking", after="difficulty")
def thinking(build: Build) -> Section | None:
    points = curve_points(build)
    groups: dict[tuple[str, str], list[CurvePoint]] = {}
    for point in points:
        groups.setdefault((point.benchmark, point.mode), []).append(point)
    parts = [
        Section(benchmark, tuple(thinking_blocks(group)), note=mode)
        for (benchmark, mode), group in groups.items()
    ]
    if not parts:
        return None
    return Section("Thinking tokens", (Text(INTRO), *parts), facts=tuple(points))


@once
def curve_points(build: Build) -> list[CurvePoint]:
    """The points of all evaluations with budgets, by benchmark."""
    made = {row.label: build.by_name[row.stage].artifact for row in build.evaluations}
    return curves({label: read_spent(scores) for label, scores in made.items() if scores})
