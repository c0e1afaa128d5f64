"""The bill of a plan in the terminal: what each stage will take, and on what that rests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.building.fit import misfits, rank_faults
from factory.building.plan import Step, missing
from factory.building.pricing import Bill, Row, bill
from factory.core.machine import Machine
from factory.core.readable import count, duration
from factory.cost.flows import COMPLETION_SHARE, COMPLETION_TOKENS, RL_SHARE
from factory.ui.console import Console, Text
from factory.ui.grid import Column, print_table
from factory.ui.measuring import Measuring
from factory.ui.verbs import open_console, print_json

HEADS = [
    Column("stage"), Column("kind", rank=2), Column("tokens", is_number=True, rank=4),
    Column("time", is_number=True), Column("GiB mem", is_number=True),
    Column("GiB disk", is_number=True, rank=3), Column("price", is_number=True, rank=1),
]  # fmt: skip


def show_cost(
    plan: Sequence[Step], store: Path, machine: Machine, console: Console, *, as_json: bool = False
) -> None:
    """One row a stage, the sums, and what they rest on."""
    costs = bill(plan, store, machine, Measuring(open_console(stderr=True) if as_json else console))
    if as_json:
        print_json(console, **_document(costs, machine), missing=missing(plan))
        return
    too_large = {row.step.name for row in costs.misfits}
    table: list[list[Text]] = []
    for row in costs.rows:
        style = "red" if row.step.name in too_large else ""
        cells = [row.step.name, row.step.kind, *_cells(row, costs, machine)]
        table.append([Text(cell, style) for cell in cells])
    table.append([Text(cell, "bold") for cell in ("all", "", *_sums(costs))])
    print_table(console, HEADS, table)
    for line in _grounds(costs, machine):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    lines = [line for misfit in misfits(costs) for line in misfit.lines()]
    lines += rank_faults([row.step for row in costs.rows if row.artifact is None], machine)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True, style="red")
    for gap in missing(plan):
        console.print(f"to be filled in before it can be built: {gap}", soft_wrap=True)


def _document(costs: Bill, machine: Machine) -> dict[str, Any]:
    """The bill for programs: seconds, GiB and tokens of each stage, and their sums."""
    too_large = {row.step.name for row in costs.misfits}
    rows = [
        {
            "stage": row.step.name, "kind": row.step.kind, "is_reused": row.artifact is not None,
            "unknown": row.missing, "fits": row.step.name not in too_large,
            "estimate": None if row.estimate is None else row.estimate.model_dump(mode="json"),
        }
        for row in costs.rows
    ]  # fmt: skip
    misfit = [line for each in misfits(costs) for line in each.lines()]
    steps = [row.step for row in costs.rows if row.artifact is None]
    return {
        "rows": rows, "seconds": costs.seconds, "price": costs.price,
        "flops_per_second": costs.speed.peaks.flops_per_second,
        "bytes_per_second": costs.speed.peaks.bytes_per_second, "was_busy": costs.is_busy,
        "device_gib": costs.device_gib, "room_gib": costs.room_gib,
        "faults": [*misfit, *rank_faults(steps, machine)],
    }  # fmt: skip


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


def _busy_lines(costs: Bill) -> list[str]:
    """How full engines stay that share the longest work, by the simulation."""
    stages = [
        (row.estimate.seconds, row.step.name, row.estimate.busy, row.estimate.tail)
        for row in costs.rows if row.estimate is not None and row.estimate.busy is not None
    ]  # fmt: skip
    if not stages:
        return []
    _, name, busy, tail = max(stages)
    return [
        f"Rows: {name} keeps {busy:.0%} of its engines' rows busy, with no request left to start "
        f"in the last {tail:.0%} of its steps (simulated for log-normal lengths)."
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
    lines += _busy_lines(costs)
    if any(estimate.is_drawn and not estimate.is_assumed for estimate in estimates):
        lines.append("* by the lengths of an earlier run of this store.")
    if costs.misfits:
        lines.append(
            f"! does not fit: a device has {costs.device_gib:,.1f} GiB, of which "
            f"{costs.room_gib:,.1f} may be planned; it would not be built:"
        )
    shared = [row.context.engines for row in costs.rows if row.context and not row.context.trains]
    drawing = machine.tensor_parallel * max(shared, default=machine.processes)
    if costs.on_gpu and drawing < machine.processes:
        lines.append(
            f"Idle: {machine.processes - drawing} of {machine.processes} GPUs while a stage only "
            "draws; engines on all of them need Ray, the extra `cluster`, and no fewer of them in "
            "the machine file's `cluster`."
        )
    scratch = max((estimate.scratch_gib for estimate in estimates), default=0.0)
    if scratch:
        lines.append(f"Disk: up to {scratch:,.1f} GiB more while a stage keeps checkpoints.")
    if machine.price_per_hour is None:
        lines.append("Price: none; state price_per_hour in the machine file.")
    lines += [f"unknown: {gap}" for gap in costs.missing]
    return lines
