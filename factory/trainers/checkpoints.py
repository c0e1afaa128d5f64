"""Exact resume for a transformers Trainer: checkpoints that are complete or do not count.

A Trainer writes the files of a checkpoint one after the other into a folder that already has its
final name, so a kill leaves a folder that looks finished. Here a checkpoint counts only once
`COMPLETE` lies in it: written last, atomically, after every file reached the disk, and naming
every file with its size. Everything else is scratch that a restart deletes.

Use: `arguments.trainer_arguments` spreads `saving_fields`; add `CompleteCheckpoints()` to
the callbacks, and train with `running.run_trainer`, which goes on from `resume_point(folder)`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from factory.core.context import STOP
from factory.core.errors import ArtifactError, EngineError
from factory.core.files import fsync, note
from factory.core.machine import free_gib
from factory.core.ranks import this_rank
from factory.trainers.marked import MARKER, checkpoints, latest_complete, marked_step, write_marker
from factory.trainers.unchanged import changed_file, cut_rows, hashes, rows_until_now


def saving_fields(steps: int) -> dict[str, Any]:
    """The fields of TrainingArguments with which a Trainer saves every so many steps, as this
    module expects it.

    `save_total_limit` is off on purpose: transformers rotates before `on_save`, that is, before
    the new checkpoint has its marker, so a limit of 1 would delete the only complete one while
    its successor may still be torn. `CompleteCheckpoints` rotates after the marker instead.
    """
    return {
        "save_strategy": "steps",
        "save_steps": steps,
        "save_total_limit": None,
        "save_only_model": False,
        "ignore_data_skip": False,
    }


class CompleteCheckpoints(TrainerCallback):
    """Marks each checkpoint once all of it is on disk, then deletes the older ones.

    At most two checkpoints lie on disk, and from the first marker on always one complete one.
    The state after the last step is not checkpointed: the finished model is saved right after.
    Where the builder asks for it (`context.STOP`) the next step that can be gone on from, one in
    `every`, is checkpointed too, and ends the run with an EngineError.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._is_stopping = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False
        elif state.global_step % self._every == 0 and _is_asked_to_stop(args):
            control.should_save = self._is_stopping = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _wait_for_ranks()  # each writes files of its own into the folder
        if state.is_world_process_zero:
            folder = output_folder(args)
            newest = folder / f"checkpoint-{state.global_step}"
            mark_complete(newest, state.global_step, scratch=folder.parent)
            for path in checkpoints(folder):
                if path != newest:
                    _discard(path)
        if self._is_stopping:
            _wait_for_ranks()  # the first that ends takes the others with it
            raise EngineError(f"stopped after step {state.global_step}, whose state is kept")


def output_folder(args: TrainingArguments) -> Path:
    """Where a trainer's checkpoints lie, which `trainer_arguments` always says."""
    assert args.output_dir is not None
    return Path(args.output_dir)


def _is_asked_to_stop(args: TrainingArguments) -> bool:
    """Whether the builder has written its wish where the first rank sees it; all ranks agree."""
    requested = is_first_rank() and (output_folder(args).parent / STOP).exists()
    if not _in_a_group():
        return requested
    message = torch.tensor([int(requested)], device=args.device)
    torch.distributed.broadcast(message, 0)
    return bool(message.item())


def _wait_for_ranks() -> None:
    if _in_a_group():
        torch.distributed.barrier()


def _in_a_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def mark_complete(checkpoint: Path, step: int, *, scratch: Path | None = None) -> None:
    """Force every file of a checkpoint to disk, then write its marker, atomically and last; with
    hashes of the rows in `scratch` that a run would go on from with it."""
    paths = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != MARKER)
    for path in paths:
        fsync(path)
    files = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in paths}
    sha256 = hashes(paths, checkpoint)
    rows = None if scratch is None else rows_until_now(scratch)
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_dir()):
        fsync(path)
    write_marker(checkpoint, step=step, files=files, sha256=sha256, rows=rows)
    fsync(checkpoint.parent)


def resume_point(folder: Path, notify: Callable[[str], None] = note) -> Path | None:
    """Delete the torn checkpoints under `folder`; returns the newest complete one, or None.

    One with a file that the disk has changed counts as torn, as one whose rows it has changed, and
    `notify` is told. Rows that were written after it are cut off: they come again. Call it before
    the trainer starts. Of several ranks only rank 0 deletes, and the others wait for it.
    """
    if is_first_rank():
        for path in checkpoints(folder):
            if marked_step(path) is None:
                _discard(path)
        scratch = folder.parent
        while (newest := latest_complete(folder)) and (changed := changed_file(newest, scratch)):
            notify(f"{changed}: not what was written: {newest.name} is left out")
            _discard(newest)
        cut_rows(newest, scratch)
    _wait_for_ranks()
    return latest_complete(folder)


def is_first_rank() -> bool:
    """Whether this process writes the shared files: the only one, or a launcher's rank 0."""
    return this_rank().is_first


def require_space(folder: Path, model: torch.nn.Module) -> None:
    """ArtifactError unless two checkpoints of this model (weights and Adam's moments) fit.

    Said before training rather than at the first checkpoint, where a full disk would end a run.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    moments = sum(2 * p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    needed = 2 * (weights + moments) / 2**30
    if free_gib(folder) < needed:
        raise ArtifactError(
            f"{folder}: {free_gib(folder):.1f} GiB free, two checkpoints of this model need "
            f"{needed:.1f}: free some space or build elsewhere"
        )


def _discard(checkpoint: Path) -> None:
    """Delete a checkpoint, marker first: a kill in the middle must leave one that is torn."""
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)
