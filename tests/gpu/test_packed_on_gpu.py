"""The packed pass against TRL's own on a CUDA device; without one these tests are skipped."""

from pathlib import Path

import pytest
from passes import (
    GROUP,
    assert_same,
    batch,
    bfloat16_distances,
    loss_and_gradients,
    make_trainer,
    save_model,
    with_old_and_reference,
)

from factory.core.machine import Machine

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def device() -> str:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.cuda.get_device_name()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_in_float32_gradients_are_trls(architecture: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", architecture)
    inputs = with_old_and_reference(make_trainer(folder, tmp_path), batch(), old=True)
    trainer = make_trainer(folder, tmp_path, machine=Machine(device="cuda", dtype="float32"))
    plain = loss_and_gradients(trainer, inputs, None)
    # In float32, since TRL's kernels are written for that alone.
    assert_same(plain, loss_and_gradients(trainer, inputs, GROUP), bound=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_in_bfloat16_gradients_are_as_near_to_float32_as_trls(
    architecture: str, tmp_path: Path
) -> None:
    _, trls, ours = bfloat16_distances(architecture, tmp_path, "cuda")
    assert 1e-4 < ours() < 1.5 * trls
