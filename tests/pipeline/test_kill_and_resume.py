"""SIGKILL at random moments, the same command again: the same bytes as an undisturbed build.

Killed are the builder, with its group or alone, a worker, the fork server, and the builder again
while it seals a stage or writes the report.

The recipe is the smoke recipe up to the first evaluation of a trained model: fourteen stages, every
kind of stage among them. Two builds are killed again and again side by side, one thread each (with
FACTORY_LONG_TESTS=1 eight of them, two at a time, at other moments with another FACTORY_LONG_SEED),
and held to one undisturbed build. That one is as from a shell; those that are killed have their
imports done (warm.py).
"""

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest
from building import SMOKE, Build, sealed, wait_until_gone

from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.core.artifacts import Artifact
from factory.core.files import without_hash
from factory.stages import STAGES

LAST = "eval_cold"
SEALED, REPORT = "sealing", "report"
MOMENTS = {
    SEALED: (("open", "manifest.json."), ("os.rename", "manifest.json."), ("os.rename", ".partial"),
             ("shutil.rmtree", "/scratch")),
    REPORT: (("open", "report.md."), ("os.rename", "report.json."), ("os.rename", "report.html.")),
}  # fmt: skip
"""What a build is about to do when it is killed: (audit event, text of its first argument)."""
LANES = (
    ("base", "sums", "zero", "zero", "zero", SEALED, "few_shot_traces", "few_shot_kept",
     "cold_traces", SEALED, "cold", "cold", "eval_cold", "eval_cold", REPORT, REPORT),
    ("long_sums", SEALED, "zero", "zero", "few_shot_traces", "zero_traces", "zero_kept",
     "zero_rewritten", SEALED, "zero_reviewed", "cold", "cold", "cold", "eval_cold", "eval_cold",
     REPORT),
)  # fmt: skip
"""In which stage each kill of a lane strikes, at a random moment of it; or while the next stage is
sealed, or the report is written, at a certain one."""
TOLD, DAMAGED = "told to end", "damaged"
VICTIMS = ("builder", "all", "worker", "fork server", TOLD)
"""Who is killed, in turn; the last is SIGTERM for the builder, and no kill."""
LEAST_KILLS, AT_ONCE = 25, len(LANES)
IS_LONG = bool(os.environ.get("FACTORY_LONG_TESTS"))
SEED = int(os.environ.get("FACTORY_LONG_SEED", "11")) if IS_LONG else 11
"""Of the first build; each further one takes the next."""
if IS_LONG:
    LANES, LEAST_KILLS = LANES * 4, 100
"""Further builds, killed at other moments: what is sealed cannot be struck again. After each kill
the disk changes a bit of something that the unfinished stages left."""
WORKING_KINDS = {"generate", "sft", "grpo", "evaluate"}
"""Stages long enough that a kill must have struck while one of them was at work."""


def identities(store: Path) -> dict[str, tuple[str, str]]:
    """(fingerprint, content hash) of every artifact by stage name."""
    return {
        name: (artifact.fingerprint, artifact.manifest.content)
        for name, artifact in sealed(store).items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    Build(store, "--until", LAST).succeed()
    return store


def killed_lane(
    store: Path, targets: tuple[str, ...], seed: int, *, reference: Mapping[str, Artifact]
) -> Counter[tuple[str, str]]:
    """Build with one kill a target, then to the end; counts kills by (victim, at work)."""
    chance = random.Random(seed)
    kills: Counter[tuple[str, str]] = Counter()
    order = [step.name for step in make_plan(load_recipe(SMOKE), until=LAST)]
    moments = {name: cycle(chance.sample(events, len(events))) for name, events in MOMENTS.items()}
    victims = cycle(chance.sample(VICTIMS, len(VICTIMS)))
    for wanted in targets:
        if wanted in MOMENTS:
            moment = next(moments[wanted])
            if dies(store, *moment):
                kills[wanted, " ".join(moment)] += 1
            continue
        done = sealed(store)
        # An earlier kill may have come too late for its stage and struck in this one.
        target = next(
            n for n in [*order[order.index(wanted) :], LAST] if n not in done or n == LAST
        )
        build = Build(store, "--until", LAST, is_warm=True)
        if build.wait_for_worker(target):
            wait_for_moment(build, target, share=chance.random(), artifact=reference[target])
        if not build.is_running():
            build.succeed()
            continue
        victim = next(victims) if build.workers() else "builder"
        if not kill(build, victim):
            continue
        unfinished = {path.name.rpartition("-")[0] for path in store.glob("*.partial")}
        at_work = [name for name in unfinished if name not in sealed(store)]
        kills[victim, reference[at_work[0]].manifest.stage if at_work else "between"] += 1
        if IS_LONG and (damaged := damage(store, chance)):
            kills[DAMAGED, re.sub(r"\d+", "N", damaged.name)] += 1
    while struck(kills) < len(targets):  # some came too late
        moment = next(moments[REPORT])
        assert dies(store, *moment)
        kills[REPORT, " ".join(moment)] += 1
    Build(store, "--until", LAST, is_warm=True).succeed()
    return kills


def struck(kills: Counter[tuple[str, str]]) -> int:
    """Ends of builds, without what was damaged after them."""
    return sum(n for (who, _), n in kills.items() if who != DAMAGED)


def damage(store: Path, chance: random.Random) -> Path | None:
    """Change a bit of a file that an unfinished stage left; None where none did."""
    folders = [path for path in (*store.glob("*.run/scratch"), *store.glob("*.partial"))]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if path.stat().st_size]
    if not files:
        return None
    path = chance.choice(files)
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return path


def dies(store: Path, event: str, text: str) -> bool:
    """Whether a build was killed right before it did that."""
    build = Build(store, "--until", LAST, is_warm=True, dies_at=(event, text))
    output = build.finish()
    assert build.process.returncode in (0, -signal.SIGKILL), output
    wait_until_gone(build.others)
    return build.process.returncode != 0


def kill(build: Build, victim: str) -> bool:
    """Whether a build ended by the kill of one of its processes: in words, where it could."""
    others, workers = build.descendants(), build.workers()
    if victim in ("builder", "all") or not workers:
        build.kill(whole_group=victim == "all")
        assert build.process.returncode in (0, -signal.SIGKILL), build.output()
        return build.process.returncode != 0
    if victim == TOLD:
        build.process.send_signal(signal.SIGTERM)
        output = build.finish()
        assert build.process.returncode in (0, 130), output
        wait_until_gone(others)
        return build.process.returncode != 0
    try:
        os.kill(build.fork_server() if victim == "fork server" else workers[0], signal.SIGKILL)
    except (ProcessLookupError, IndexError):  # its stage has just ended
        build.kill(whole_group=True)
        return build.process.returncode != 0
    try:
        output = build.finish(timeout=20.0)
    except subprocess.TimeoutExpired:  # its work was done, and the build goes on
        build.kill(whole_group=True)
        return True
    if build.process.returncode == 0:
        return False
    assert build.process.returncode == 2 and "Traceback" not in output, output
    assert "killed from outside" in output or "forked from ended" in output, output
    wait_until_gone(others)
    return True


def wait_for_moment(build: Build, target: str, *, share: float, artifact: Artifact) -> None:
    """Wait until about this share of a stage's work is done.

    Told by the stage's own progress: how long a stage takes on a busy machine cannot be foreseen.
    The short kinds report none; there it is a share of the undisturbed build's seconds.
    """
    reports = artifact.manifest.stage in WORKING_KINDS
    limit = 120.0 if reports else share * artifact.manifest.seconds
    end = time.monotonic() + limit
    while time.monotonic() < end and build.is_running() and not build.has_sealed(target):
        # A stage at its last step may end before the signal arrives.
        if reports and build.progress(target) >= 0.8 * share:
            return
        time.sleep(0.02)


def test_the_recipe_has_every_kind_of_stage_and_every_lane_stays_in_it() -> None:
    plan = make_plan(load_recipe(SMOKE), until=LAST)
    # These have tests of their own of going on after a stop; the last two are made in one go.
    own_tests = {"pretrain", "judge", "pairs", "labels", "reward_model", "distill"}
    own_tests |= {"imported", "pass_rates"}
    assert {step.kind for step in plan} == set(STAGES) - own_tests
    names = {name for lane in LANES for name in lane}
    assert names - MOMENTS.keys() <= {step.name for step in plan} and names >= MOMENTS.keys()
    assert sum(len(lane) for lane in LANES) >= LEAST_KILLS


def test_killed_builds_end_with_the_bytes_of_an_undisturbed_one(
    undisturbed: Path, tmp_path: Path
) -> None:
    reference = sealed(undisturbed)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [
            pool.submit(killed_lane, tmp_path / f"lane{n}", lane, SEED + n, reference=reference)
            for n, lane in enumerate(LANES)
        ]
        kills = sum((future.result() for future in futures), Counter())
    print(f"{kills.total()} kills:", *(f"{n} {' / '.join(k)};" for k, n in sorted(kills.items())))
    assert struck(kills) - sum(n for (who, _), n in kills.items() if who == TOLD) >= LEAST_KILLS
    assert {at_work for _, at_work in kills} >= WORKING_KINDS, kills
    assert {victim for victim, _ in kills} - {DAMAGED} == {*VICTIMS, *MOMENTS}, kills
    for number in range(len(LANES)):
        assert identities(tmp_path / f"lane{number}") == identities(undisturbed), kills
        assert not list((tmp_path / f"lane{number}").glob("*.partial"))
        (report,) = (tmp_path / f"lane{number}" / "reports").iterdir()
        # A kill may leave a draft beside a file.
        assert {path.suffix for path in report.iterdir()} - {".tmp"} == {".md", ".json", ".html"}
        assert without_hash((report / "report.json").read_bytes())[1]
