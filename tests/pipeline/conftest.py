"""What several files of tests share: one run of the sft stage."""

from pathlib import Path

import pytest
from fine_tuning import ROWS, config, make_inputs, stage, trace

from factory.core.artifacts import Inputs


@pytest.fixture(scope="session")
def sft_inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    return make_inputs(folder, [trace(number) for number in range(ROWS)])


@pytest.fixture(scope="session")
def sft_made(
    sft_inputs: Inputs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, float], list[dict]]:
    """Folder, metrics and events of an undisturbed run."""
    root = tmp_path_factory.mktemp("made")
    return root / "out", *stage(root, config(), sft_inputs)
