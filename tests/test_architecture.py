"""The rules of docs/architecture.md that a program can check."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from factory.building.plan import make_plan
from factory.building.recipe import load_machine, load_recipe
from factory.core.records import ArtifactKind
from factory.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(
    path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "machines"
)
MACHINES = sorted((ROOT / "recipes" / "machines").glob("*.yaml"))

# From the bottom up. A module may import modules of its own layer and of those below. A package
# named here stands for its modules, unless one of them is named by itself.
LAYERS = (
    ("install",),
    ("core",),
    ("text", "models", "cpu"),
    ("grading",),
    ("reading",),
    ("problems",),
    ("rewards", "sampling", "preferences", "cost"),
    ("trainers", "evaluation"),
    ("stages",),
    ("auditing", "building"),
    ("doctor", "tracking"),
    ("report", "publish", "live", "indexing", "ui"),
    ("cli", "plugins", "api"),
)
HEAVY = ("torch", "transformers", "vllm", "trl", "datasets", "lm_eval", "numpy")
DOOR = "factory.ui.console"
"""The one module that prints. Rich is imported elsewhere for tables and for the live display."""
WRITERS = {
    "factory.core.context": "events where there is no run folder: JSON",
    "factory.grading.rows": "JSON whose texts are escaped",
    "factory.core.ownership": "runs before anything of ours can be imported",
    "factory.install": "runs before rich is installed",
    "factory.building.launch.measure": "JSON for its parent",
    "factory.building.launch.peaks": "JSON for its parent",
    "factory.grading.inside.asker": "runs alone in the sandbox",
    "factory.grading.inside.checker": "runs alone in the sandbox",
    "factory.preferences.examples": "JSON, made again by hand",
}
"""What writes to standard streams by itself, and why it may."""
LINES_TO_READ = 12_000
"""Of the files that docs/architecture.md names as what a newcomer must read."""
LINES_A_FILE = 500
LINES_A_FUNCTION = 60
LINES_A_TRAINER_LOOP = 90
TRAINER_LOOPS = ("factory.stages.grpo.trainer", "factory.cpu.packed")
LOOSEST_TOLERANCE = 1e-2
CLOSEST_BY_HAND = 1e-6
TOLERANCES = ("rel", "abs", "atol", "rtol", "delta", "abs_tol", "rel_tol")


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax tree of every module of the package, by dotted name."""
    hits = {}
    for path in sorted((ROOT / "factory").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        hits[name] = ast.parse(path.read_text(encoding="utf-8"))
    return hits


def files_of_tests() -> list[Path]:
    return [p for p in sorted((ROOT / "tests").rglob("*.py")) if "typings" not in p.parts]


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules of the factory that a tree imports, in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("factory"))
        elif isinstance(node, ast.ImportFrom):
            source = str(node.module)
            assert node.level == 0, f"from .{source}: write the full name"
            if source.split(".")[0] != "factory":
                continue
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield name if name in modules() else source


def import_graph(trees: Mapping[str, ast.AST]) -> dict[str, set[str]]:
    """What each module imports. An import of a module runs its package's own file, too, but for
    modules of that package: they need only its name, not what it defines."""
    graph = {}
    for name, tree in trees.items():
        targets = set(imports(tree))
        packages = {t.rpartition(".")[0] for t in targets} & trees.keys() - {"factory"}
        graph[name] = targets | {p for p in packages if not name.startswith(f"{p}.")} - {name}
    return graph


def unit(module: str) -> str:
    """A folder or module of the package's top, and within `stages` a folder or module of it."""
    parts = module.split(".")
    return ".".join(parts[1:3] if parts[1:2] == ["stages"] else parts[1:2])


def units(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """What the units import of each other; `stages` itself is a unit, without those within."""
    merged: dict[str, set[str]] = {}
    for name, targets in graph.items():
        merged.setdefault(unit(name), set()).update(unit(target) for target in targets)
    return {name: targets - {name, ""} for name, targets in merged.items() if name}


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Sets of nodes of which each imports each other, through others perhaps."""
    reach = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    around = {
        frozenset(other for other in reach[name] if name in reach.get(other, ()))
        for name in graph
        if name in reach[name]
    }
    return sorted(map(set, around), key=sorted)


def upward(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports against the order of LAYERS."""
    return [
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in sorted(targets)
        if "." in name and "." in target and layer(target) > layer(name)
    ]


def layer(module: str) -> int:
    part = module.split(".")[1]
    hits = [number for number, names in enumerate(LAYERS) if part in names]
    assert len(hits) == 1, f"{module} stands in {len(hits)} layers"
    return hits[0]


def test_imports_go_down_only() -> None:
    assert upward(import_graph(modules())) == []


def test_no_module_imports_itself_through_others() -> None:
    assert circles(import_graph(modules())) == []


def test_no_folder_imports_itself_through_others() -> None:
    assert circles(units(import_graph(modules()))) == []


def test_no_stage_folder_imports_another() -> None:
    folders = {unit(name) for name in modules() if re.fullmatch(r"factory\.stages\.\w+\.run", name)}
    assert {"stages.sft", "stages.grpo", "stages.distill", "stages.reward_model"} <= folders
    graph = units(import_graph(modules()))
    assert {name: graph[name] & folders for name in folders if graph[name] & folders} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "from factory.stages.sft.config import SftConfig",
        "import factory.stages.sft.config",
        "from factory.stages.sft import config",
        "if TYPE_CHECKING:\n    from factory.stages.sft.config import SftConfig",
        "if typing.TYPE_CHECKING:\n    import factory.stages.sft.config",
        "def late():\n    from factory.stages.sft.config import SftConfig",
        "class Late:\n    async def late(self):\n        import factory.stages.sft.config",
        "try:\n    from factory.stages.sft.config import SftConfig\nexcept ImportError:\n    pass",
    ],
)
def test_a_planted_circle_is_seen(planted: str) -> None:
    """`stages.sft.config` imports `trainers.lora`."""
    trees = {**modules(), "factory.trainers.lora": ast.parse(planted)}
    trees["factory.stages.sft.config"] = ast.parse("import factory.trainers.lora")
    graph = import_graph(trees)
    assert any("factory.trainers.lora imports factory.stages.sft" in line for line in upward(graph))
    assert {"factory.trainers.lora", "factory.stages.sft.config"} <= set().union(*circles(graph))
    assert {"trainers", "stages.sft"} <= set().union(*circles(units(graph)))


def test_a_circle_through_a_package_s_own_file_is_seen() -> None:
    trees = {
        name: ast.parse(text)
        for name, text in {
            "factory.a": "import factory.b.part",
            "factory.b": "import factory.c",
            "factory.b.part": "",
            "factory.c": "import factory.a",
        }.items()
    }
    assert circles(import_graph(trees)) == [{"factory.a", "factory.b", "factory.c"}]


def test_no_file_is_longer_than_500_lines() -> None:
    files = [*sorted((ROOT / "factory").rglob("*.py")), *files_of_tests()]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {str(p): n for p, n in lengths.items() if n > LINES_A_FILE} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    long = []
    for name, tree in modules().items():
        limit = LINES_A_TRAINER_LOOP if name in TRAINER_LOOPS else LINES_A_FUNCTION
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > limit:
                    long.append(f"{name}.{node.name}: {length} lines")
    assert long == []


def test_no_table_by_kind_of_stage_stands_outside_the_stages() -> None:
    """What is known of a kind stands in its row. Names of artifacts' kinds alone are no such
    table: they are closed."""
    kinds, artifacts = set(STAGES), set(get_args(ArtifactKind))

    def table(node: ast.AST) -> set[str]:
        parts: Sequence[ast.expr | None] = ()
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            parts = node.elts
        elif isinstance(node, ast.Dict):
            parts = node.keys
        return {part.value for part in parts if isinstance(part, ast.Constant)} & kinds

    assert table(ast.parse('("select", "mix")', mode="eval").body) == {"select", "mix"}
    wrong = [
        f"{name}:{node.lineno}: {sorted(names)}"
        for name, tree in modules().items()
        if not name.startswith("factory.stages")
        for node in ast.walk(tree)
        if len(names := table(node)) > 1 and not names <= artifacts
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "module", ["factory.cli", "factory.stages", "factory.building.worker", "factory.ui.reference"]
)
def test_an_import_leaves_the_heavy_libraries_unimported(module: str) -> None:
    code = f"import sys, {module}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


def test_only_one_module_opens_a_console_or_makes_text_for_it() -> None:
    wrong = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                taken = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                taken = [str(node.module)]
            else:
                continue
            taken = [module for module in taken if module.split(".")[0] == "rich"]
            allowed = name == DOOR or (
                (name.startswith("factory.ui.") and all(module == "rich.table" for module in taken))
                or (name == "factory.ui.display" and taken == ["rich.progress"])
            )
            wrong += [f"{name} imports {module}" for module in taken if not allowed]
    assert wrong == []


def test_the_live_display_draws_on_that_console_and_reads_no_markup() -> None:
    calls = [
        node
        for node in ast.walk(modules()["factory.ui.display"])
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("TextColumn", "Progress")
    ]
    assert len(calls) > 1
    for call in calls:
        stated = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if ast.unparse(call.func) == "TextColumn":
            assert stated["markup"] == "False", ast.unparse(call)
        else:
            assert stated["console"] == "console"


def test_nothing_prints_past_that_console() -> None:
    names = ("print", "echo", "secho", "sys.stdout", "sys.stderr", "sys.__stdout__", "pprint")
    past = [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        if name not in WRITERS
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in names)
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in names)
        or (isinstance(node, ast.Attribute) and node.attr in ("echo", "secho"))
    ]
    assert past == []


def test_python_processes_are_started_in_one_way() -> None:
    """By `module_command`, which keeps the user's folder off the path; the installer, which imports
    nothing of ours, says so itself."""
    starting = [
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.executable"
    ]
    assert sorted(set(starting)) == [
        "factory.core.interpreter",
        "factory.doctor.checks",
        "factory.install",
    ]
    installer = ast.unparse(modules()["factory.install"])
    assert installer.count("sys.executable") == installer.count("[sys.executable, '-P', '-m'") == 2


def test_no_code_of_a_model_folder_is_ever_trusted() -> None:
    word = "trust_remote_" + "code"
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == word:
                assert ast.unparse(node.value) == "False", name
            if isinstance(node, ast.Dict):
                given = zip(node.keys, node.values, strict=True)
                values = [ast.unparse(v) for k, v in given if k and ast.unparse(k) == repr(word)]
                assert "True" not in values, name


def reading_list() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (part,) = re.findall(r"<!-- reading -->(.*?)<!-- /reading -->", text, re.S)
    return re.findall(r"[\w/]+\.py", part)


def test_what_a_newcomer_must_read_is_read_in_a_day() -> None:
    files = reading_list()
    assert len(set(files)) == len(files) > 50
    lengths = {
        file: len((ROOT / "factory" / file).read_text(encoding="utf-8").splitlines())
        for file in files
    }
    assert sum(lengths.values()) <= LINES_TO_READ, lengths


def test_what_a_newcomer_must_read_goes_from_a_recipe_to_its_report() -> None:
    """The main loop and its parts, every door, and the stages that R1's chain stands on."""
    chain = ("problems", "generate", "select", "sft", "grpo", "evaluate")
    making = ("building/recipe", "building/plan", "building/pipeline", "building/worker")
    parts = (*making, "core/artifacts", "core/registry", "rewards/rules")
    folders = {kind for kind in chain if (ROOT / "factory" / "stages" / kind).is_dir()}
    stages = [f"stages/{kind}/run" if kind in folders else f"stages/{kind}" for kind in chain]
    needed = [*parts, "stages/stage", "report/build", *stages]
    assert [part for part in needed if f"{part}.py" not in reading_list()] == []


def test_the_layers_of_the_documentation_are_the_layers_that_are_tested() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(install\ncore.*?)```", text, re.S)
    stated = [sorted(line.split(", ")) for line in block.splitlines()]
    assert stated == [sorted(names) for names in LAYERS]


def test_the_tests_that_the_documentation_names_are_there() -> None:
    text = (ROOT / "docs" / "r1.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:unit|pipeline|golden|property|browser)/test_\w+\.py)`", text)
    assert len(named) > 50
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_no_test_is_looser_than_a_hundredth() -> None:
    loose = []
    for path in files_of_tests():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for where, value in tolerances(tree):
            if value > LOOSEST_TOLERANCE:
                loose.append(f"{path.relative_to(ROOT)}:{where}: {value}")
    assert loose == []


def test_tensors_are_compared_to_the_digits_of_a_hand_or_in_float64() -> None:
    """Two ways to compute one thing differ by 1e-6 in float32 on some processors: see `doubles`."""
    loose = []
    for path in files_of_tests():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for where, value in tolerances(tree, names=("atol", "rtol")):
            if value > CLOSEST_BY_HAND:
                loose.append(f"{path.relative_to(ROOT)}:{where}: {value}")
    assert loose == []


def tolerances(
    tree: ast.Module, *, names: Sequence[str] = TOLERANCES
) -> Iterator[tuple[int, float]]:
    """(line, value) of every keyword of these names that is a number or a constant."""
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.keyword):
            continue
        if node.arg not in names:
            continue
        if isinstance(node.value, ast.Constant):
            yield node.value.lineno, float(node.value.value)
        elif isinstance(node.value, ast.Name) and node.value.id in constants:
            yield node.value.lineno, float(constants[node.value.id])


def test_tolerances_are_found_through_constants() -> None:
    tree = ast.parse("CLOSE = 0.5\nassert x == approx(1, rel=CLOSE)\nisclose(a, b, atol=2.0)")
    assert sorted(tolerances(tree)) == [(2, 0.5), (3, 2.0)]
    assert list(tolerances(tree, names=("atol",))) == [(3, 2.0)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_plans(path: Path) -> None:
    plan = make_plan(load_recipe(path))
    assert plan
    assert all(re.fullmatch(r"[0-9a-f]{64}", step.fingerprint) for step in plan)


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_every_machine_file_loads(path: Path) -> None:
    assert load_machine(path) is not None


def test_the_recipes_are_found() -> None:
    assert {"quickstart", "r1-small", "smoke"} <= {path.stem for path in RECIPES}
    assert {"cpu", "smoke"} <= {path.stem for path in MACHINES}


def test_the_factory_knows_nothing_of_the_lab() -> None:
    """The lab registers as a user's package would: no module names it or its world."""
    for path in sorted((ROOT / "factory").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bworld\b", text, re.IGNORECASE), path
        assert not re.search(r"^\s*(from|import) lab\b", text, re.MULTILINE), path


def test_the_lab_is_no_longer_than_it_may_be() -> None:
    for path in sorted((ROOT / "lab").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines = [n.end_lineno - n.lineno for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        assert max(lines, default=0) < LINES_A_FUNCTION, path
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_A_FILE, path


def test_no_two_files_of_tests_share_a_name() -> None:
    """Folders of tests are no packages: pytest would take the second file for the first."""
    names = [path.name for path in sorted(Path(__file__).parent.rglob("test_*.py"))]
    assert [name for name, count in Counter(names).items() if count > 1] == []
