import ast
import inspect
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

import pretrain
from pretrain.command_line.command import CONF

PACKAGE = Path(pretrain.__file__).parent
COMMANDS = {
    f"pretrain.{name}"
    for name in ("stage", "finetune", "probe", "compare", "report", "describe", "gradcheck", "predict")
}


def module_name(file):
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in PACKAGE.rglob("*.py")}


def imported(file):
    """Return the modules of the package that one imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in submodules}
    return found & set(MODULES)


GRAPH = {name: imported(file) for name, file in MODULES.items()}


# The floors of the house, from the ground up: a folder imports from those before it, and from itself.
FLOORS = (
    *("errors", "runs", "network", "rbm", "data", "stages", "evaluation", "training"),
    *("pictures", "pipelines", "comparison", "reporting", "command_line"),
)


def floor(module):
    """Return the folder of a module; of a file at the top, the file."""
    return module.split(".")[1]


def test_the_import_graph_is_read_as_it_stands():
    assert GRAPH["pretrain.errors"] == set()
    assert GRAPH["pretrain.stages.sparsity"] == {"pretrain.runs.batch_parts"}
    assert GRAPH["pretrain.stages.squared_error"] == set()
    assert MODULES.keys() >= COMMANDS


def test_every_folder_has_its_floor():
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert folders == {*FLOORS} - {"errors"}


def test_imports_run_one_way():
    list(TopologicalSorter(GRAPH).static_order())  # which fails where some go in a circle


@pytest.mark.parametrize("name", sorted(MODULES.keys() - COMMANDS - {"pretrain"}))
def test_a_module_imports_from_no_higher_floor(name):
    allowed = FLOORS[: FLOORS.index(floor(name)) + 1]
    assert {floor(used) for used in GRAPH[name]} <= {*allowed}


def test_no_folder_holds_a_single_file():
    files = {
        folder: {*folder.glob("*.py")} - {folder / "__init__.py"} for folder in PACKAGE.iterdir() if folder.is_dir()
    }
    assert not [folder for folder, held in files.items() if len(held) == 1]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_imports_a_command(name):
    assert not GRAPH[name] & COMMANDS


def bodies(file):
    """Yield each function of a file with the number of lines of its body; the docstring does not count."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1 if ast.get_docstring(node) else 0 :]
            yield node.name, node.end_lineno - first[0].lineno + 1 if first else 0


LONGEST_BODY = 40  # lines
# Functions that are still to be split. None is added.


def test_no_body_is_longer_than_a_page():
    long = [
        f"{module}.{name}" for module, file in MODULES.items() for name, lines in bodies(file) if lines > LONGEST_BODY
    ]
    assert not long


def test_a_recipe_is_checked_without_torch():
    waiting, needed = ["pretrain.training.recipes"], set()
    while waiting:
        needed.add(module := waiting.pop())
        waiting += GRAPH[module] - needed
    assert not [module for module in needed if "import torch" in MODULES[module].read_text()]


def test_no_two_public_names_are_the_same():
    """A command's `main` apart: one name stands for one thing."""
    named = [
        node.name for file in MODULES.values() for node in ast.parse(file.read_text()).body if hasattr(node, "name")
    ]
    public = [name for name in named if not name.startswith("_") and name != "main"]
    assert sorted(public) == sorted({*public})


def test_every_file_is_named_for_what_it_holds():
    assert not [file for file in PACKAGE.rglob("*.py") if file.stem in ("utils", "util", "helpers", "misc", "common")]


@pytest.mark.parametrize("file", sorted((CONF / "stage").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_stage_in_conf_is_a_stage(file):
    assert issubclass(get_class(OmegaConf.load(file)["_target_"]), pretrain.Stage)


@pytest.mark.parametrize("name", pretrain.__all__)
def test_every_public_name_exists_and_is_documented(name):
    assert inspect.getdoc(getattr(pretrain, name))


def test_no_public_name_is_that_of_a_command():
    """Or ``import pretrain.finetune`` would make a module of a function."""
    assert not {command.split(".")[1] for command in COMMANDS} & {*pretrain.__all__}


def test_the_public_names_are_in_order():
    assert pretrain.__all__ == sorted(pretrain.__all__)
