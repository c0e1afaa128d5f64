"""The build that `build`, `rehearse` and `eval` run: first lines, progress, report."""

import signal
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import typer

from factory.building import pipeline
from factory.building.builds import kept_build
from factory.building.fit import require_devices, require_fit
from factory.building.launch.measure import resolve_matmul
from factory.building.plan import Step, make_plan, missing
from factory.building.pricing import Bill, record
from factory.building.pruning import unneeded
from factory.building.recipe import Recipe
from factory.core.artifacts import Artifact, find
from factory.core.errors import EngineError
from factory.core.machine import Machine
from factory.core.readable import plural
from factory.tracking.mirror import tracking
from factory.ui.alerts import alerting
from factory.ui.console import Console
from factory.ui.display import JsonDisplay, LiveDisplay, PlainDisplay
from factory.ui.measuring import Measuring, outlook
from factory.ui.outlook import TimeLeft


def build_and_report(
    recipe: Recipe, machine: Machine, store: Path, console: Console, *, again: str,
    until: str | None = None, plain: bool = False, as_json: bool = False, priced: bool = True,
) -> list[Artifact]:  # fmt: skip
    """Build a recipe with live progress and write its report; returns what its plan's steps made.

    Ctrl-C ends with status 130 and says `again`, the command that goes on; SIGTERM likewise, and
    SIGHUP unless it is ignored (nohup), once what trains has written a checkpoint.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _terminate)
    display: PlainDisplay | None = None
    try:
        plan = make_plan(recipe, until=until)
        left, keeping = None, nullcontext()
        if not missing(plan):
            left = _open(recipe.name, plan, store, machine, console, priced=priced)
            pipeline.check_store(store)
            price = machine.price_per_hour
            keeping = kept_build(store, plan, recipe.name, command=again, price=price)
        number = len(plan) - len(unneeded(plan, store))
        display_type = PlainDisplay if plain or not console.is_terminal else LiveDisplay
        if as_json:
            display = JsonDisplay(number, Console())
        else:
            display = display_type(number, console, machine.price_per_hour, left)
        with (
            tracking(display, recipe.name, store, machine) as tracked,
            keeping,
            alerting(tracked, recipe.name, machine.price_per_hour) as observer,
        ):
            made = pipeline.build(plan, store, machine, observer)
        display.close()
        say_report(recipe, store, console)
    except KeyboardInterrupt:
        with suppress(OSError):  # a terminal that was closed takes no words
            if display is not None:
                display.close()
            console.print("Stopped. Finished stages, samples and checkpoints are kept;")
            console.print(f"go on with: {again}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    finally:
        with suppress(OSError):
            if display is not None:
                display.close()
    return [made[step.name] for step in plan if step.name in made]


def _terminate(number: int, frame: object) -> None:
    """An orderly end, as Ctrl-C is, but with a checkpoint; another signal ends it without."""
    signal.signal(number, signal.default_int_handler)
    raise pipeline.Terminated


def say_report(recipe: Recipe, store: Path, console: Console) -> None:
    """Write the report and say where it is, and which plug-ins could not show what they have."""
    from factory.report.writing import write_report  # it would delay the first lines

    path, faults = write_report(recipe, store)
    for line in (*faults, f"report: {path}"):
        console.print(line, soft_wrap=True)


def _open(
    name: str,
    plan: Sequence[Step],
    store: Path,
    machine: Machine,
    console: Console,
    *,
    priced: bool,
) -> TimeLeft | None:
    """The first lines of a build: what it is, what this machine does, and how long it may take,
    which comes back; None where it is not known."""
    reused = sum(find(store, step.fingerprint) is not None for step in plan)
    stages, skipped = plural(len(plan), "stage"), unneeded(plan, store)
    pruned = f", {len(skipped)} pruned and not needed" if skipped else ""
    console.print(f"{name}: {stages}, {reused} reused{pruned}", highlight=False, soft_wrap=True)
    if reused + len(skipped) == len(plan):
        return None
    pipeline.check_store(store)
    require_devices(plan, store, machine)
    measuring = Measuring(console)
    resolved = resolve_matmul(machine, store, measuring)
    if not priced:
        return None
    left = None
    try:
        bill = record(plan, store, machine, measuring, check=require_fit)
    except EngineError as error:
        # Nobody asked for an estimate: a fault of the device is told by what needs it.
        lines = [f"no estimate of the time: {error}"]
    else:
        lines = outlook(bill, resolved, is_measured=measuring.has_begun)
        left = time_left(bill)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    return left


def time_left(bill: Bill | None) -> TimeLeft | None:
    """What a bill's stages are to take, for a display."""
    if bill is None:
        return None
    priced = [(row.step.name, row.estimate) for row in bill.rows]
    expected = {name: estimate.seconds for name, estimate in priced if estimate is not None}
    return TimeLeft(expected, bill.seconds)
