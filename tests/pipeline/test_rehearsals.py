"""Every shipped recipe rehearses: its whole graph, on tiny models, as a user starts it."""

from pathlib import Path

import pytest
from building import Build

from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.building.rehearse import rehearsal
from factory.core.artifacts import find

ROOT = Path(__file__).resolve().parents[2]
# The smoke recipe is a rehearsal of r1-small by itself, and is built by other tests.
RECIPES = sorted(p for p in (ROOT / "recipes").glob("*.yaml") if p.stem != "smoke")
# The other recipes of the folder differ from the ladder in data only: tests/unit/test_rehearse.py.
DISTILL = ("ladder", "ablation-filters", "ablation-rl")
RECIPES += [ROOT / "recipes" / "distill" / f"{name}.yaml" for name in DISTILL]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: what two rehearsals have in common is made once."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_rehearses(recipe: Path, shared: Path) -> None:
    Build(shared, verb="rehearse", recipe=recipe, is_warm=True).succeed()
    store = shared / "rehearsals"
    small = rehearsal(load_recipe(recipe))
    plan = make_plan(small)
    assert [step.name for step in plan if find(store, step.fingerprint) is None] == []
    assert (store / "reports" / small.name / "report.html").exists()
