"""What every trainer is told, whichever it trains: where and in which dtype it computes, what it
logs and when it saves. Nowhere else does a stage name one of these arguments."""

from typing import Any

from factory.core.context import Context
from factory.core.errors import RecipeError
from factory.core.machine import Machine
from factory.core.ranks import this_rank
from factory.core.readable import multiples_near


def trainer_arguments(
    context: Context, *, rows: int, steps: int, accumulation: int = 1, save_every: int | None = None
) -> dict[str, Any]:
    """Fields of transformers' TrainingArguments; a stage adds its own mathematics.

    `accumulation` passes over `rows` rows make one of `steps` updates of a rank; a checkpoint
    follows every `save_every` updates, the machine's number where that is None. The dtype is that
    of the sampling engines (`Machine.torch_dtype_name`), so that one machine file trains every
    stage alike: in bfloat16 the weights stay in float32 and products are rounded (autocast).
    """
    # Stages count rows with this module while a recipe is planned: no torch for that.
    from factory.trainers.checkpoints import saving_fields

    machine = context.machine
    on_gpu = machine.takes_gpu()
    return {
        "output_dir": str(context.scratch / "trainer"),
        "seed": context.seed,
        "max_steps": steps,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation,
        "use_cpu": not on_gpu,
        "bf16": machine.torch_dtype_name(on_gpu=on_gpu) == "bfloat16",
        "fp16": False,
        "dataloader_pin_memory": on_gpu,
        "gradient_checkpointing": recomputes(machine, on_gpu=on_gpu),
        "ddp_find_unused_parameters": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would replace a loss that is not a number
        "report_to": "none",
        "disable_tqdm": True,
        **saving_fields(save_every or machine.checkpoint_steps),
    }


def recomputes(machine: Machine, *, on_gpu: bool) -> bool:
    """Whether activations are computed again in the backward pass, not kept."""
    return machine.train.activations in ("recompute", *(["auto"] if on_gpu else []))


def micro_batch_rows(batch: int, machine: Machine) -> int:
    """Rows a forward pass on one process; RecipeError unless they divide the batch evenly."""
    share, rest = divmod(batch, machine.processes)
    micro_batch = min(machine.micro_batch, share)
    if rest or share % micro_batch:
        near = multiples_near(batch, machine.processes * (1 if rest else micro_batch))
        raise RecipeError(
            f"batch: {batch} rows cannot be cut into micro-batches of {machine.micro_batch} on "
            f"{machine.processes} process(es); make batch {near}"
            + ("" if rest else ", or lower the machine's micro_batch")
        )
    return micro_batch


def share_of_rank(prompts: int, unit: str, count: int | None = None) -> int:
    """How many of an update's `prompts` each rank takes; RecipeError unless they divide evenly.
    `count` ranks, or those of this group."""
    ranks = count or this_rank().count
    if prompts % ranks:
        raise RecipeError(
            f"prompts: {prompts} {unit} cannot be shared evenly by {ranks} processes; make it "
            f"{multiples_near(prompts, ranks)}"
        )
    return prompts // ranks


def largest_divisor(count: int, limit: int) -> int:
    """The largest number up to `limit` that divides `count`."""
    return max(n for n in range(1, min(count, limit) + 1) if count % n == 0)
