import ast
import inspect
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

import pretrain
from pretrain.config import CONF

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


def test_the_import_graph_is_read_as_it_stands():
    assert GRAPH["pretrain.errors"] == set()
    wanted = {f"pretrain.{name}" for name in ("functional", "errors", "stages.base", "stages.kmeans", "stages.layer")}
    assert GRAPH["pretrain.stages.conv_autoencoder"] == wanted
    assert MODULES.keys() >= COMMANDS


def test_imports_run_one_way():
    order = list(TopologicalSorter(GRAPH).static_order())
    assert sorted(order) == sorted(MODULES)
    assert order.index("pretrain.errors") < order.index("pretrain.stages.base") < order.index("pretrain.network")


def test_the_equations_import_nothing_of_the_package():
    assert GRAPH["pretrain.functional"] == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_imports_a_command(name):
    assert not GRAPH[name] & COMMANDS


def test_every_file_is_named_for_what_it_holds():
    assert not [file for file in PACKAGE.rglob("*.py") if file.stem in ("utils", "util", "helpers", "misc", "common")]


@pytest.mark.parametrize("file", sorted((CONF / "stage").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_stage_in_conf_is_a_stage(file):
    assert issubclass(get_class(OmegaConf.load(file)["_target_"]), pretrain.Stage)


@pytest.mark.parametrize("name", pretrain.__all__)
def test_every_public_name_exists_and_is_documented(name):
    assert inspect.getdoc(vars(pretrain)[name])


def test_the_public_names_are_in_order():
    assert pretrain.__all__ == sorted(pretrain.__all__)
