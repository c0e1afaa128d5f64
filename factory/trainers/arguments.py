"""What every trainer is told by the machine."""

from factory.context import Context
from factory.errors import RecipeError


def micro_batch_rows(batch: int, context: Context) -> int:
    """Rows a forward pass on one process; RecipeError unless they divide the batch evenly."""
    machine = context.machine
    share, rest = divmod(batch, machine.processes)
    micro_batch = min(machine.micro_batch, share)
    if rest or share % max(1, micro_batch):
        raise RecipeError(
            f"batch: {batch} rows cannot be cut into micro-batches of {machine.micro_batch} on "
            f"{machine.processes} process(es); make batch a multiple of "
            f"{machine.micro_batch * machine.processes}, or lower the machine's micro_batch"
        )
    return micro_batch
