"""Checkpoints count only when complete, and a killed run goes on to the same bytes."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.core.context import STOP
from factory.core.errors import ArtifactError

STEPS = 7
SAVE_STEPS = 2


def checkpoint(folder: Path, name: str, *, step: int | None) -> Path:
    """A folder that looks like a checkpoint; without a step it has no marker."""
    from factory.trainers.checkpoints import mark_complete

    path = folder / name
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"12345678")
    (path / "trainer_state.json").write_text("{}")
    if step is not None:
        mark_complete(path, step)
    return path


def test_the_newest_complete_checkpoint_is_chosen_by_step_not_by_name_order(tmp_path: Path):
    from factory.trainers.checkpoints import latest_complete

    checkpoint(tmp_path, "checkpoint-9", step=9)
    newest = checkpoint(tmp_path, "checkpoint-10", step=10)
    checkpoint(tmp_path, "checkpoint-11", step=None)
    assert latest_complete(tmp_path) == newest


def test_a_folder_without_checkpoints_has_no_resume_point(tmp_path: Path):
    from factory.trainers.checkpoints import resume_point

    assert resume_point(tmp_path) is None
    assert resume_point(tmp_path / "missing") is None


@pytest.mark.parametrize("damage", ["no marker", "short file", "missing file", "broken marker"])
def test_a_torn_checkpoint_is_never_trusted_and_is_deleted(tmp_path: Path, damage: str):
    from factory.trainers.checkpoints import MARKER, latest_complete, resume_point

    undisturbed = checkpoint(tmp_path, "checkpoint-2", step=2)
    torn = checkpoint(tmp_path, "checkpoint-4", step=4)
    assert latest_complete(tmp_path) == torn
    if damage == "no marker":
        (torn / MARKER).unlink()
    elif damage == "short file":
        (torn / "model.safetensors").write_bytes(b"1234567")
    elif damage == "missing file":
        (torn / "trainer_state.json").unlink()
    else:
        (torn / MARKER).write_text('{"step": 4, "fi')
    assert latest_complete(tmp_path) == undisturbed
    assert resume_point(tmp_path) == undisturbed
    assert not torn.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json"])
def test_a_checkpoint_with_a_changed_byte_is_named_and_left_out(tmp_path: Path, name: str):
    from factory.trainers.checkpoints import resume_point

    undisturbed = checkpoint(tmp_path, "checkpoint-2", step=2)
    changed = checkpoint(tmp_path, "checkpoint-4", step=4)
    data = (changed / name).read_bytes()
    (changed / name).write_bytes(bytes([data[0] ^ 4]) + data[1:])
    notes: list[str] = []
    assert resume_point(tmp_path, notes.append) == undisturbed
    assert len(notes) == 1 and notes[0].startswith(f"{changed / name}: not what was written")
    assert not changed.exists() and resume_point(tmp_path, notes.append) == undisturbed


def test_a_marker_with_any_changed_bit_is_torn(tmp_path: Path):
    from factory.trainers.checkpoints import MARKER, latest_complete, resume_point

    chance = random.Random(5)
    undisturbed = checkpoint(tmp_path, "checkpoint-2", step=2)
    marker = checkpoint(tmp_path, "checkpoint-4", step=4) / MARKER
    data = marker.read_bytes()
    for at in range(len(data)):
        marker.write_bytes(
            data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        )
        assert latest_complete(tmp_path) == undisturbed, at
    assert resume_point(tmp_path) == undisturbed and not marker.parent.exists()


def test_changed_hashes_of_kept_weights_are_named(tmp_path: Path):
    from factory.trainers.unchanged import remember, require_unchanged, sums

    chance, kept = random.Random(6), tmp_path / "watched-4.safetensors"
    kept.write_bytes(b"12345678")
    remember(kept)
    data = sums(kept).read_bytes()
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        sums(kept).write_bytes(changed)
        with pytest.raises(ArtifactError, match="not what was written"):
            require_unchanged(kept)


def test_weights_kept_beside_checkpoints_are_checked_before_they_are_taken(tmp_path: Path):
    from factory.trainers.unchanged import remember, require_unchanged

    folder, file = tmp_path / "watched-2", tmp_path / "watched-4.safetensors"
    folder.mkdir()
    for path in (folder / "a", folder / "b", file):
        path.write_bytes(b"12345678")
    for kept in (folder, file):
        require_unchanged(kept)  # of an earlier version: no hashes
        remember(kept)
        require_unchanged(kept)
    for path in (folder / "b", file):
        path.write_bytes(b"12345679")
        with pytest.raises(ArtifactError, match=f"{path}: not what was written; delete"):
            require_unchanged(path if path == file else folder)
    (folder / "b").unlink()
    with pytest.raises(ArtifactError, match="not what was written"):
        require_unchanged(folder)


def test_only_the_first_rank_deletes_torn_checkpoints(tmp_path: Path, monkeypatch):
    from factory.trainers.checkpoints import resume_point

    torn = checkpoint(tmp_path, "checkpoint-4", step=None)
    monkeypatch.setenv("RANK", "1")
    assert resume_point(tmp_path) is None
    assert torn.exists()


def test_a_full_disk_is_told_before_training(tmp_path: Path, monkeypatch):
    import torch

    from factory.trainers import checkpoints

    monkeypatch.setattr(checkpoints, "free_gib", lambda path: 0.001)
    with pytest.raises(ArtifactError, match="two checkpoints of this model need"):
        checkpoints.require_space(tmp_path, torch.nn.Linear(1000, 1000))
    checkpoints.require_space(tmp_path, torch.nn.Linear(10, 10))


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory) -> Path:
    """Results of an undisturbed run and of runs killed at several moments, each resumed.

    A process of its own trains them in forked children: it never touches autograd itself, which
    does not survive a fork on machines with a GPU.
    """
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, __file__, str(folder)], check=True, env=environment)
    return folder


KILLS = ("first step", "mid interval", "writing", "before marker", "deleting older")
CHANGED = {"a row before its checkpoint": (2, 0), "a row after its checkpoint": (5, 4)}
"""After a kill in step 5, saved at step 4: the step whose row the disk changes, and where it is
gone on from."""
TOLD = ("told to stop", "told in threes")
"""No kills: the builder asks for an end after step 4, of a run that can stop at every step, or at
every third."""


@pytest.mark.parametrize("kill", (*KILLS, *CHANGED, *TOLD))
def test_a_killed_and_resumed_run_ends_with_the_same_bytes(killed_runs: Path, kill: str):
    for name in ("model.safetensors", "telemetry.jsonl"):
        expected = (killed_runs / "undisturbed" / name).read_bytes()
        assert len(expected) > 100
        assert (killed_runs / kill / name).read_bytes() == expected, name


def test_resuming_starts_at_the_last_complete_checkpoint(killed_runs: Path):
    # Saved every 2 steps. Killed in step 1: nothing to resume. After step 5: checkpoint 4. While
    # checkpoint 4 is written, or complete but unmarked: 2. Once 4 has its marker: 4.
    starts = {kill: int((killed_runs / kill / "resumed_at").read_text()) for kill in KILLS}
    assert starts == dict(zip(KILLS, (0, 4, 2, 2, 4), strict=True))


def test_a_changed_row_is_named_and_made_again_with_what_followed_it(killed_runs: Path):
    for name, (_, start) in CHANGED.items():
        assert int((killed_runs / name / "resumed_at").read_text()) == start
        said = (killed_runs / name / "said").read_text()
        expected = f"{killed_runs / name / 'telemetry.jsonl'}: not what was written"
        assert said.startswith(expected) if start == 0 else said == ""


def test_a_run_that_is_told_to_stop_keeps_the_next_step_it_can_go_on_from(killed_runs: Path):
    starts = {name: int((killed_runs / name / "resumed_at").read_text()) for name in TOLD}
    assert starts == {"told to stop": 5, "told in threes": 6}


def _train(folder: Path, kill: str | None) -> None:
    """Train a tiny model with dropout, so that a lost random state would show, and save it."""
    import torch
    from transformers import Trainer, TrainingArguments

    from factory.core.context import Context
    from factory.core.machine import Machine
    from factory.models.tiny import tiny_model
    from factory.trainers import checkpoints
    from factory.trainers.telemetry import Telemetry

    torch.set_num_threads(1)
    model = tiny_model("llama", hidden=32, layers=1)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.2
    rows = [[(7 * row + column) % 259 for column in range(8)] for row in range(11)]
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        seed=1,
        max_steps=STEPS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        **checkpoints.saving_fields(SAVE_STEPS),
    )
    telemetry = Telemetry(
        folder / "telemetry.jsonl",
        Context(1, Machine(), folder),
        values=lambda logs: {"loss": logs["loss"], "grad_norm": logs["grad_norm"]},
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        callbacks=[telemetry, checkpoints.CompleteCheckpoints(3 if kill == TOLD[1] else 1)],
    )
    _arm(kill, telemetry, folder)
    said: list[str] = []
    resumed = checkpoints.resume_point(folder / "trainer", said.append)
    (folder / "said").write_text("\n".join(said))
    start = 0 if resumed is None else int(resumed.name.removeprefix("checkpoint-"))
    (folder / "resumed_at").write_text(str(start))
    trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    model.save_pretrained(folder)


def _arm(kill: str | None, telemetry, folder: Path) -> None:
    """Replace one function by one that kills this process at the wanted moment."""
    from transformers import Trainer

    from factory.trainers import checkpoints

    def die_on_call(number: int, original: Callable | None = None) -> Callable:
        calls = 0

        def function(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs) if original else None

        return function

    def die_after_call(number: int, original: Callable) -> Callable:
        def function(*args, **kwargs):
            original(*args, **kwargs)
            return die(*args, **kwargs)

        die = die_on_call(number)
        return function

    def ask_at_step(number: int) -> Callable:
        def function(arguments, state, *args, **kwargs):
            if state.global_step == number:
                (folder / STOP).touch()
            return on_log(arguments, state, *args, **kwargs)

        on_log = telemetry.on_log
        return function

    if kill in TOLD:
        telemetry.on_log = ask_at_step(4)
    elif kill == "first step":
        telemetry.on_log = die_on_call(1)
    elif kill == "mid interval":
        telemetry.on_log = die_on_call(5, telemetry.on_log)
    elif kill == "after step 5":
        telemetry.on_log = die_after_call(5, telemetry.on_log)
    elif kill == "writing":  # weights and optimizer are there, the trainer's state is not
        Trainer._save_rng_state = die_on_call(2, Trainer._save_rng_state)
    elif kill == "before marker":
        checkpoints.mark_complete = die_on_call(2, checkpoints.mark_complete)
    elif kill == "deleting older":
        checkpoints._discard = die_on_call(1)


def change_row(path: Path, step: int) -> None:
    """The row of a step says that it is that of step 3."""
    lines = path.read_bytes().splitlines(keepends=True)
    assert lines[step - 1].startswith(b'{"step": %d,' % step)
    lines[step - 1] = lines[step - 1].replace(b'{"step": %d' % step, b'{"step": 3', 1)
    path.write_bytes(b"".join(lines))


def _in_child(work: Callable[[], None]) -> int:
    """Run in a forked child; returns its status: 0, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _main(root: Path) -> None:
    from transformers import Trainer  # noqa: F401

    import factory.trainers.checkpoints
    import factory.trainers.telemetry  # noqa: F401

    undisturbed = root / "undisturbed"
    undisturbed.mkdir()
    assert _in_child(lambda: _train(undisturbed, None)) == 0
    for kill in KILLS:
        folder = root / kill
        folder.mkdir()
        assert _in_child(lambda: _train(folder, kill)) == -signal.SIGKILL  # noqa: B023
        assert _in_child(lambda: _train(folder, None)) == 0  # noqa: B023
    for name, (step, _) in CHANGED.items():
        folder = root / name
        folder.mkdir()
        assert _in_child(lambda: _train(folder, "after step 5")) == -signal.SIGKILL  # noqa: B023
        change_row(folder / "telemetry.jsonl", step)
        assert _in_child(lambda: _train(folder, None)) == 0  # noqa: B023
    for name in TOLD:
        folder = root / name
        folder.mkdir()
        assert _in_child(lambda: _train(folder, name)) == 1  # noqa: B023
        (folder / STOP).unlink()
        assert _in_child(lambda: _train(folder, None)) == 0  # noqa: B023


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
