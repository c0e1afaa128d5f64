"""The terminal queue of a review: one trace after the other, accepted, edited or rejected."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.core.artifacts import Artifact, find
from factory.core.errors import ArtifactError, RecipeError
from factory.core.records import Trace
from factory.preferences.review import (
    REASONS,
    Decision,
    Pass,
    Queue,
    Reason,
    edit_faults,
    key,
    passes_agree,
    record,
)
from factory.stages.review import ReviewConfig
from factory.text.chat import OutputForm
from factory.text.lint import lint
from factory.text.visible import visible
from factory.ui.console import Console, Text
from factory.ui.tables import resolve

THOUGHTS, ENDING = "=== thoughts ===", "=== answer ==="
RECIPES = (".yaml", ".yml", ".json")
CHOICES = "(a)ccept, (e)dit, (r)eject, (s)kip, (q)uit: "


def open_queue(
    target: str,
    overrides: Sequence[str],
    *,
    stage: str | None,
    decisions: Path | None,
    store: Path,
    build: Callable[[str], str],
) -> Queue:
    """The queue of a recipe's review stage, or of any artifact with traces.

    `build` is the command that makes a stage of the recipe, told where it lacks.

    RecipeError where the recipe has no such stage or it names no file; ArtifactError where the
    traces are not made yet.
    """
    path = Path(target)
    if path.suffix not in RECIPES or not path.is_file():
        artifact = resolve(target, store)
        if artifact.manifest.kind != "traces":
            raise ArtifactError(f"{target}: holds {artifact.manifest.kind}, traces are needed")
        if decisions is None:
            raise RecipeError(f"{target}: say with --decisions which file takes the decisions")
        traces = list(artifact.traces())
        return Queue(traces, decisions, 1.0, None, originals(artifact, store))
    plan = {step.name: step for step in make_plan(load_recipe(path, overrides))}
    steps = [step for step in plan.values() if step.kind == "review" and stage in (None, step.name)]
    if len(steps) != 1:
        names = ", ".join(step.name for step in plan.values() if step.kind == "review") or "none"
        raise RecipeError(f"{target}: name one review stage with --stage; there are: {names}")
    step = steps[0]
    config = step.config
    if not isinstance(config, ReviewConfig) or config.decisions is None:
        raise RecipeError(
            f"stages.{step.name}.decisions: names no file; set it in the recipe, or no build would "
            "read what is decided here"
        )
    source = plan[step.inputs["traces"]]
    artifact = find(store, source.fingerprint)
    if artifact is None:
        raise ArtifactError(f"{source.name}: not made yet; run {build(source.name)}")
    return Queue(
        list(artifact.traces()), Path(config.decisions), config.second_pass, config.form,
        originals(artifact, store),
    )  # fmt: skip


def originals(artifact: Artifact, store: Path) -> dict[tuple[str, int], Trace]:
    """What the traces were before they were rewritten, as far as the store has it."""
    before: dict[tuple[str, int], Trace] = {}
    for path, entry in artifact.manifest.inputs.items():
        source = find(store, entry.fingerprint) if path.endswith("traces") else None
        if source is None:
            continue
        if artifact.manifest.stage == "rewrite":
            before |= {(trace.problem_id, trace.sample): trace for trace in source.traces()}
        else:
            before |= originals(source, store)
    return before


def review_queue(queue: Queue, *, reviewer: str, review_pass: Pass, console: Console) -> None:
    """Ask about every pending trace until none is left, `q`, or the input ends."""
    waiting = queue.pending(review_pass, reviewer)
    for number, trace in enumerate(waiting, start=1):
        _show(trace, queue.form, position=f"{number} of {len(waiting)}", console=console)
        try:
            decision = _ask(trace, queue.form, reviewer, review_pass=review_pass, console=console)
        except _Skipped:
            continue
        except (EOFError, _Stopped):
            break
        record(queue.path, decision)
    status(queue, console)


def status(queue: Queue, console: Console) -> None:
    """What is decided, what waits, and how far the two passes agree."""
    decisions, first, second = queue.decisions(), queue.pending(1), queue.pending(2)
    console.print(
        f"{len(queue.traces) - len(first)} of {len(queue.traces)} traces decided; "
        f"{len(second)} wait for a second pass. Decisions: {queue.path}",
        markup=False,
        soft_wrap=True,
    )
    agreed = passes_agree(queue.traces, decisions)
    if agreed is not None:
        kappa = "not defined" if agreed.kappa is None else f"{agreed.kappa:.2f}"
        console.print(
            f"The two passes agree on {agreed.share:.0%} of {agreed.n} traces; "
            f"Cohen's kappa {kappa}."
        )


class _Skipped(Exception):
    """The reviewer leaves this trace for later."""


class _Stopped(Exception):
    """The reviewer stops here."""


def _show(trace: Trace, form: OutputForm | None, *, position: str, console: Console) -> None:
    """The trace in its parts, and what the linter says about it."""
    console.rule(Text(f"{position}: {trace.problem_id}, {trace.verdict.outcome}"))
    parts = (("question", trace.question), ("thoughts", trace.reasoning or trace.completion))
    for name, text in (*parts, ("answer", trace.summary or trace.answer or "(none)")):
        console.print(Text(name, "bold"))
        console.print(Text(text))
    for remark in lint(trace.completion, form=form):
        console.print(Text(f"linter: {remark}", "yellow"))


def _ask(
    trace: Trace, form: OutputForm | None, reviewer: str, *, review_pass: Pass, console: Console
) -> Decision:
    """One decision; _Skipped, _Stopped or EOFError where there is none."""
    made = {"trace": key(trace), "reviewer": reviewer, "review_pass": review_pass}
    while True:
        choice = console.input(CHOICES).strip().lower()
        if choice in ("a", "accept"):
            return Decision(**made, choice="accept")
        if choice in ("s", "skip"):
            raise _Skipped
        if choice in ("q", "quit"):
            raise _Stopped
        if choice in ("r", "reject"):
            reason = _reason(console)
            note = console.input("note (may be empty): ").strip()
            return Decision(**made, choice="reject", reason=reason, note=note)
        if choice in ("e", "edit"):
            parts = _edit(trace, form, console)
            if parts is not None:
                return Decision(**made, choice="edit", reasoning=parts[0], ending=parts[1])


def _reason(console: Console) -> Reason:
    reasons = ", ".join(f"{number} {name}" for number, name in enumerate(REASONS, start=1))
    while True:
        given = console.input(f"reason ({reasons}): ").strip().lower()
        for number, name in enumerate(REASONS, start=1):
            if given in (name, str(number)):
                return name


def _edit(trace: Trace, form: OutputForm | None, console: Console) -> tuple[str, str] | None:
    """Thoughts and answer (or summary) from the reviewer's editor; None where they are no good."""
    ending = trace.answer if form is None else trace.summary
    before = f"{THOUGHTS}\n{visible(trace.reasoning or '')}\n{ENDING}\n{visible(ending or '')}\n"
    text = click.edit(before, extension=".txt")
    if text is None or text == before:
        console.print("not changed", style="yellow")
        return None
    head, _, ending = text.partition(f"\n{ENDING}\n")
    reasoning = head.removeprefix(THOUGHTS).strip()
    ending = ending.strip()
    faults = edit_faults(reasoning, ending, form)
    if faults:
        console.print(Text(f"not taken: {'; '.join(faults)}", "yellow"))
        return None
    return reasoning, ending
