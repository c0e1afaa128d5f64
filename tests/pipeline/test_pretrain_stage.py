"""The pretrain stage: what it leaves, the same bytes after a stop, and that the model learns."""

import io
import json
from pathlib import Path

import pytest

from factory.core.artifacts import Inputs
from factory.core.context import Context
from factory.core.machine import Machine
from lab.pretrain.config import PretrainConfig
from lab.pretrain.run import run

# A checkpoint every 50 steps.
MACHINE = Machine(device="cpu", threads=1, checkpoint_steps=1)
CONFIG = PretrainConfig(
    kind="pretrain", hidden=32, layers=1, heads=2, feed_forward=64, sequence=32, batch=8,
    tokens=120 * 8 * 32, warmup_steps=5,
)  # fmt: skip


class Stopped(Exception):
    pass


def stage(root: Path, *, stop_at: int | None = None) -> dict[str, float]:
    for name in ("out", "scratch"):
        (root / name).mkdir(parents=True, exist_ok=True)

    class Events(io.StringIO):
        def write(self, text: str) -> int:
            if stop_at is not None and json.loads(text).get("step") == stop_at:
                raise Stopped
            return super().write(text)

    return run(CONFIG, Inputs(), root / "out", Context(3, MACHINE, root / "scratch", Events()))


def content(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "out").iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    root = tmp_path_factory.mktemp("made")
    return root, stage(root)


def test_the_loss_falls_and_the_folder_is_a_whole_model(made: tuple[Path, dict]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root, metrics = made
    assert metrics["steps"] == 120
    assert metrics["loss_last"] < 0.7 * metrics["loss_first"]
    model = AutoModelForCausalLM.from_pretrained(root / "out", use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(root / "out")
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.chat_template.startswith("<bos>")
    text = "wait try 1 + 2 = 3 make 3 yes ;"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_stopped_run_goes_on_to_the_same_bytes(made: tuple[Path, dict], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        stage(tmp_path, stop_at=70)
    checkpoint = tmp_path / "scratch" / "trainer" / "checkpoint-50"
    assert (checkpoint / "COMPLETE").exists()
    stage(tmp_path)
    assert content(tmp_path) == content(made[0])
