"""A disk that is full at each of twenty points of a build: named, and gone on from with room."""

import json
from pathlib import Path

from namespaces import needs_namespaces
from warm import run_script

TESTS = Path(__file__).resolve().parents[1]


@needs_namespaces
def test_a_disk_that_is_full_at_any_point_is_named_and_the_build_goes_on_with_room(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = run_script(TESTS / "full_disk.py", str(disk), settings={"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    message = json.loads(done.stdout.splitlines()[-1])
    print(*(output.strip().splitlines()[-1] for _, _, output in message["endings"]), sep="\n")
    assert len(message["endings"]) == 20
    for limit, status, output in message["endings"]:
        assert status == 2, (limit, output)
        assert "Traceback" not in output, output
        last = output.strip().splitlines()[-1]
        assert last.startswith("error: ") and str(disk) in last, output
        assert "No space left on device" in last or "is full: make room" in last, output
    assert message["made"].keys() >= {"base", "sums", "zero", "eval_zero"}
    assert message["last"] == message["made"], message["output"]
