"""What differs between two builds, from their reports alone: settings, versions, data, scores.

Scores are compared problem by problem, B minus A, as everywhere: the mean paired difference with
its interval, and p-values corrected for all comparisons made (`evaluation.paired`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from factory.core.artifacts import MANIFEST, check_files, open_artifact
from factory.core.errors import RecipeError
from factory.core.files import without_hash
from factory.core.records import Mode, Record
from factory.evaluation.paired import ALPHA, Paired, holm, paired
from factory.evaluation.statistics import Interval, clusters
from factory.report.records import Report, StageRow, Tally
from factory.stages import STAGES

Relation = Literal[
    "same content",
    "other settings",
    "other inputs, seed or versions",
    "same fingerprint, other content",
    "only in A",
    "only in B",
    "not made",
]
VersionKind = Literal["package", "machine", "code"]
Key = tuple[str, str, Mode]
"""An evaluation's stage, a benchmark, a mode."""
COUNTS = ("train", "held_out", "traces", "kept", "pairs", "labels")
"""Metrics that say how much data a stage made."""
ABSENT = "absent"
ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)
SAME_ANSWERS = "the same answers"


class Setting(Record):
    """A setting that is not the same, with the stages that it differs in alike."""

    stages: tuple[str, ...]
    path: str
    a: Any
    b: Any
    reason: str
    """The setting's own docstring, which cites the source of its default where it has one."""


class Version(Record):
    """A package, a machine setting or the code."""

    kind: VersionKind
    name: str
    a: tuple[str, ...]
    b: tuple[str, ...]


class Data(Record):
    """What a stage made in both builds."""

    stage: str
    produces: str
    relation: Relation
    fingerprints: tuple[str | None, str | None]
    counts: dict[str, tuple[float | None, float | None]]


class ScoreChange(Record):
    """One evaluation of both builds on one benchmark in one mode."""

    stage: str
    benchmark: str
    mode: Mode
    a: float | None
    b: float | None
    difference: Interval | None
    """B minus A on the problems that both answered; None where they are not compared."""
    p_value: float | None
    p_corrected: float | None
    reading: str
    """`higher`, `lower`, or `no clear change`, by the rule of the report's page; else why the two
    are not compared: equal bytes are one measurement, not two."""


class Difference(Record):
    """B against A."""

    a: str
    b: str
    settings: tuple[Setting, ...]
    versions: tuple[Version, ...]
    data: tuple[Data, ...]
    scores: tuple[ScoreChange, ...]


def open_report(run: str, store: Path) -> Report:
    """The report of a JSON file, of a folder that holds one, of a store, or of a recipe's name.

    RecipeError where there is none, or a store holds several.
    """
    path = Path(run)
    places = [path, path / "report.json", store / "reports" / run / "report.json"]
    paths = [path for path in places if path.is_file()][:1]
    if not paths:
        paths = sorted(path.glob("reports/*/report.json"))
    if not paths:
        existing = ", ".join(sorted(p.parent.name for p in store.glob("reports/*/report.json")))
        raise RecipeError(
            f"{run}: no report: give a report.json, its folder, a store, or the name of one of "
            f"the reports under {store}: {existing or 'none yet'}"
        )
    if len(paths) > 1:
        names = ", ".join(str(path.parent) for path in paths)
        raise RecipeError(f"{run}: several reports, name one: {names}")
    return _read(paths[0])


def _read(path: Path) -> Report:
    """A report that holds what was written.

    ArtifactError where an artifact that it quotes lies in its store and is not what was sealed.
    """
    again = "write it again with `factory report`"
    try:
        text, _ = without_hash(path.read_bytes())
        report = Report.model_validate_json(text)
    except ValidationError as error:
        raise RecipeError(f"{path}: is no report of this version; {again}") from error
    except ValueError as error:
        raise RecipeError(f"{path}: changed: {error}; {again}") from error
    reports = path.absolute().parent.parent
    made = [row.made for row in report.stages if row.made is not None]
    for artifact in made if reports.name == "reports" else ():
        folder = reports.parent / Path(artifact.folder).name
        if (folder / MANIFEST).exists() and open_artifact(
            folder
        ).manifest.content == artifact.content:
            check_files(open_artifact(folder))
    return report


def difference(a: Report, b: Report) -> Difference:
    """Everything that differs, and the scores of both."""
    old, new = ({row.name: row for row in report.stages} for report in (a, b))
    common = [name for name in old if name in new]
    settings = [*_seeds(old, new, common), *_settings(old, new, common)]
    changed = {name for change in settings for name in change.stages if change.path != "seed"}
    data = [_data(name, old.get(name), new.get(name), changed) for name in {**old, **new}]
    same = {row.stage for row in data if row.relation == "same content"}
    return Difference(
        a=a.recipe,
        b=b.recipe,
        settings=tuple(settings),
        versions=tuple(_versions(a, b)),
        data=tuple(data),
        scores=tuple(_scores(a, b, same)),
    )


def _seeds(
    old: Mapping[str, StageRow], new: Mapping[str, StageRow], common: Sequence[str]
) -> list[Setting]:
    stages: dict[tuple[int, int], list[str]] = {}
    for name in common:
        before, after = old[name].made, new[name].made
        if before is not None and after is not None and before.seed != after.seed:
            stages.setdefault((before.seed, after.seed), []).append(name)
    return [
        Setting(stages=tuple(names), path="seed", a=a, b=b, reason="")
        for (a, b), names in stages.items()
    ]


def _settings(
    old: Mapping[str, StageRow], new: Mapping[str, StageRow], common: Sequence[str]
) -> list[Setting]:
    """Settings that differ; stages where the same one differs alike share a row."""
    settings: dict[tuple[str, str, str, str], Setting] = {}
    for name in common:
        kind = old[name].kind
        if kind != new[name].kind:
            pairs = [("kind", kind, new[name].kind)]
        else:
            pairs = list(_unequal(old[name].config, new[name].config, ""))
        for path, before, after in pairs:
            field = setting(kind, path)
            if path == "seed" or _is_default(field, before, after):
                continue
            key = (kind, path, repr(before), repr(after))
            earlier = settings.get(key)
            stages = (name,) if earlier is None else (*earlier.stages, name)
            reason = " ".join((field.description or "").split()) if field is not None else ""
            settings[key] = Setting(stages=stages, path=path, a=before, b=after, reason=reason)
    return list(settings.values())


def _unequal(a: Any, b: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """(path, a, b) of every leaf that differs; lists of unequal length differ as a whole."""
    prefix = f"{path}." if path else ""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            yield from _unequal(a.get(key, ABSENT), b.get(key, ABSENT), f"{prefix}{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (own, other) in enumerate(zip(a, b, strict=True)):
            yield from _unequal(own, other, f"{prefix}{index}")
    elif a != b:
        yield path, a, b


def _is_default(field: FieldInfo | None, a: Any, b: Any) -> bool:
    """Whether one side merely comes from before the setting was there."""
    if field is None or ABSENT not in (a, b) or field.is_required():
        return False
    default = ANYTHING.dump_python(field.get_default(call_default_factory=True), mode="json")
    return default in (a, b)


def setting(kind: str, path: str) -> FieldInfo | None:
    """The field of a stage's config under a dotted path, as `sampling.temperature`; None where the
    path leads out of the known ones."""
    if kind not in STAGES:
        return None
    records: list[type[BaseModel]] = [STAGES[kind].config]
    field = None
    for key in path.split("."):
        if key.isdecimal():
            continue
        having = [record for record in records if key in record.model_fields]
        if not having:
            return None
        field = having[0].model_fields[key]
        records = list(_records_in(field.annotation))
    return field


def _records_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The records anywhere inside a type such as `tuple[Part, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _records_in(part)


def _versions(a: Report, b: Report) -> Iterator[Version]:
    tables: tuple[tuple[VersionKind, Mapping[str, Any], Mapping[str, Any]], ...] = (
        ("package", a.packages, b.packages),
        ("machine", a.machine, b.machine),
        ("code", {"commit": a.commits}, {"commit": b.commits}),
    )
    for kind, old, new in tables:
        for name in {**old, **new}:
            if old.get(name, ()) != new.get(name, ()):
                yield Version(kind=kind, name=name, a=old.get(name, ()), b=new.get(name, ()))


def _data(name: str, a: StageRow | None, b: StageRow | None, changed: set[str]) -> Data:
    own = a or b
    if own is None:
        raise AssertionError("a stage of neither report")
    before, after = (None if row is None else row.made for row in (a, b))
    metrics = [{} if made is None else made.metrics for made in (before, after)]
    return Data(
        stage=name,
        produces=own.produces,
        relation=_relation(a, b, has_changed=name in changed),
        fingerprints=(before and before.fingerprint, after and after.fingerprint),
        counts={
            count: (metrics[0].get(count), metrics[1].get(count))
            for count in COUNTS
            if any(count in row for row in metrics)
        },
    )


def _relation(a: StageRow | None, b: StageRow | None, *, has_changed: bool) -> Relation:
    if b is None:
        return "only in A"
    if a is None:
        return "only in B"
    if a.made is None or b.made is None:
        return "not made"
    if a.made.content == b.made.content:
        return "same content"
    if a.made.fingerprint == b.made.fingerprint:
        return "same fingerprint, other content"
    return "other settings" if has_changed else "other inputs, seed or versions"


def _tallies(report: Report) -> dict[Key, Tally]:
    return {(tally.stage, tally.benchmark, tally.mode): tally for tally in report.tallies}


def _scores(a: Report, b: Report, same: set[str]) -> list[ScoreChange]:
    """`same` are the stages that made the same bytes in both."""
    old, new = _tallies(a), _tallies(b)
    versions = [
        {
            (row.stage, score.benchmark): score.version
            for row in report.evaluations
            for score in row.scores
        }
        for report in (a, b)
    ]
    keys = list({**old, **new})
    results: dict[Key, Paired] = {}
    gaps: dict[Key, str] = {}
    for key in keys:
        gap = _gap(old.get(key), new.get(key), [version.get(key[:2]) for version in versions])
        if gap or key[0] in same:
            gaps[key] = gap or SAME_ANSWERS
        else:
            results[key] = _paired(old[key], new[key])
    corrected = dict(zip(results, holm([score.p_value for score in results.values()]), strict=True))
    return [
        ScoreChange(
            stage=key[0],
            benchmark=key[1],
            mode=key[2],
            a=_mean(old.get(key)),
            b=_mean(new.get(key)),
            difference=results[key].difference if key in results else None,
            p_value=results[key].p_value if key in results else None,
            p_corrected=corrected.get(key),
            reading=_reading(results[key], corrected[key]) if key in results else gaps[key],
        )
        for key in keys
    ]


def _reading(test: Paired, p_corrected: float) -> str:
    if p_corrected < ALPHA and test.difference.low > 0:
        return "higher"
    if p_corrected < ALPHA and test.difference.high < 0:
        return "lower"
    return "no clear change"


def _gap(a: Tally | None, b: Tally | None, versions: Sequence[str | None]) -> str:
    """Why two tallies are not compared; empty where they are."""
    if b is None:
        return "only in A"
    if a is None:
        return "only in B"
    if versions[0] != versions[1]:
        return f"other versions of the benchmark: {versions[0]} and {versions[1]}"
    if a.samples != b.samples and (a.ended_early or b.ended_early):
        return (
            f"ended early: k = {a.samples} and {b.samples}; `factory compare` takes the samples "
            "that both have"
        )
    shared = len(a.shares.keys() & b.shares.keys())
    return "" if shared > 1 else f"other problems: {shared} in common"


def _paired(a: Tally, b: Tally) -> Paired:
    shared = [name for name in a.shares if name in b.shares]
    return paired(
        [b.shares[name] for name in shared],
        [a.shares[name] for name in shared],
        samples=min(a.samples, b.samples),
        groups=clusters(shared),
    )


def _mean(tally: Tally | None) -> float | None:
    return None if tally is None else sum(tally.shares.values()) / len(tally.shares)
