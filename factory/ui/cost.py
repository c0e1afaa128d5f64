"""The bill of a plan in the terminal: what each stage will take, and on what that rests."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from factory.cost.flows import COMPLETION_SHARE, COMPLETION_TOKENS, RL_SHARE
from factory.fit import misfits, rank_faults
from factory.machine import Machine
from factory.plan import Step, missing
from factory.pricing import Bill, Row, bill
from factory.readable import count, duration
from factory.ui.console import Console
from factory.ui.measuring import Measuring

NUMBERS = ("tokens", "time", "GiB mem", "GiB disk", "price")


def show_cost(plan: Sequence[Step], store: Path, machine: Machine, console: Console) -> None:
    """One row a stage, the sums, and what they rest on."""
    costs = bill(plan, store, machine, Measuring(console))
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for name in ("stage", "kind"):
        table.add_column(name)
    for name in NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    too_large = {row.step.name for row in costs.misfits}
    for row in costs.rows:
        style = "red" if row.step.name in too_large else None
        table.add_row(row.step.name, row.step.kind, *_cells(row, costs, machine), style=style)
    table.add_row("all", "", *_sums(costs), style="bold")
    console.print(table)
    for line in _grounds(costs, machine):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    lines = [line for misfit in misfits(costs) for line in misfit.lines()]
    lines += rank_faults([row.step for row in costs.rows if row.artifact is None], machine)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True, style="red")
    for gap in missing(plan):
        console.print(f"to be filled in before it can be built: {gap}", markup=False)


def _cells(row: Row, costs: Bill, machine: Machine) -> list[str]:
    estimate = row.estimate
    if estimate is None:
        return ["", "unknown" if row.missing else "reused", "", "", ""]
    tokens = count(estimate.tokens) if estimate.tokens else ""
    fits = estimate.memory_gib <= costs.room_gib
    return [
        f"{'' if estimate.is_assumed or not estimate.is_drawn else '*'}{tokens}",
        duration(estimate.seconds),
        f"{'' if fits else '!'}{estimate.memory_gib:,.1f}",
        f"{estimate.disk_gib:,.2f}",
        _money(machine.price_per_hour, estimate.seconds),
    ]


def _money(price: float | None, seconds: float) -> str:
    return "" if price is None else f"{price * seconds / 3600:,.2f}"


def _sums(costs: Bill) -> list[str]:
    estimates = [row.estimate for row in costs.rows if row.estimate is not None]
    return [
        count(sum(estimate.tokens for estimate in estimates)),
        ("> " if costs.missing else "") + duration(costs.seconds),
        f"{max((estimate.memory_gib for estimate in estimates), default=0.0):,.1f}",
        f"{sum(estimate.disk_gib for estimate in estimates):,.2f}",
        "no price" if costs.price is None else f"{costs.price:,.2f}",
    ]


def _grounds(costs: Bill, machine: Machine) -> list[str]:
    """What the table rests on, and what it does not know."""
    peaks = costs.speed.peaks
    whence = "stated by the machine file" if machine.peaks else "measured here, kept in the store"
    share = "published, not checked by us" if costs.on_gpu else "fitted to one build (docs/log.md)"
    lines = [
        f"Speed: {peaks.flops_per_second / 1e9:,.0f} GFLOP/s, "
        f"{peaks.bytes_per_second / 1e9:,.0f} GB/s, {whence}; the share reached of it: {share}."
    ]
    if costs.is_busy:
        lines.append(
            "BUSY: other programs ran while it was measured, so times are too long; ask again when "
            "the machine is quiet."
        )
    estimates = [row.estimate for row in costs.rows if row.estimate is not None]
    if any(estimate.is_assumed for estimate in estimates):
        lines.append(
            f"Lengths: assumed, {COMPLETION_SHARE:.2f} of max_new_tokens, {RL_SHARE:.2f} in RL, at "
            f"most {COMPLETION_TOKENS:,.0f}."
        )
    if any(estimate.is_drawn and not estimate.is_assumed for estimate in estimates):
        lines.append("* by the lengths of an earlier run of this store.")
    if costs.misfits:
        lines.append(
            f"! does not fit: a device has {costs.device_gib:,.1f} GiB, of which "
            f"{costs.room_gib:,.1f} may be planned; it would not be built:"
        )
    drawing = machine.tensor_parallel * ((machine.cluster and machine.cluster.engines) or 1)
    if costs.on_gpu and drawing < machine.processes:
        lines.append(
            f"Idle: {machine.processes - drawing} of {machine.processes} GPUs while a stage only "
            "draws; a block `cluster` in the machine file gives them engines."
        )
    scratch = max((estimate.scratch_gib for estimate in estimates), default=0.0)
    if scratch:
        lines.append(f"Disk: up to {scratch:,.1f} GiB more while a stage keeps checkpoints.")
    if machine.price_per_hour is None:
        lines.append("Price: none; state price_per_hour in the machine file.")
    lines += [f"unknown: {gap}" for gap in costs.missing]
    return lines
