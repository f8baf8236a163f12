"""Every setting of every command with hostile values: accepted in its range, or refused in a line with its path."""

import math
from importlib import import_module

import pytest
from conftest import hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from pretrain import Comparison, UserError
from pretrain.command_line.arguments import prepared
from pretrain.command_line.blocks import blocks
from pretrain.command_line.command import CONF, plain
from pretrain.command_line.error_lines import error_lines
from pretrain.pipelines.run_settings import FinetuningRun, ProbeRun, StageRun
from pretrain.runs.resumption import flatten
from pretrain.runs.setting_types import In, accepted, alternatives, split_marks
from pretrain.runs.typed_settings import declared, typed

KINDS = {
    "stage": StageRun,
    "finetune": FinetuningRun,
    "probe": ProbeRun,
    "compare": Comparison,
    "describe": import_module("pretrain.describe").DescribeSettings,
    "gradcheck": import_module("pretrain.gradcheck").GradcheckSettings,
    "predict": import_module("pretrain.predict").PredictSettings,
    "report": import_module("pretrain.report").ReportSettings,
}
REQUIRED = {"predict": ["run=a", "images=b"], "report": ["run=a"], "describe": [], "gradcheck": []}
CHOICES = {
    **{command: [*REQUIRED.get(command, ["out=x"])] for command in KINDS},
    "stage": ["out=x", "data=folder", "data.root=y", "stack=mixed"],
    "compare": ["out=x", "tuning=sgd"],
}
KINDS_OF_STAGES = {
    "describe": ["data=cifar10", "stack=crbm"],
    "gradcheck": ["data=cifar10", "stack=soft_hebb"],
    "probe": ["out=x", "data=cifar10", "stack=kmeans_contrastive"],
}
CASES = [*CHOICES.items(), *KINDS_OF_STAGES.items()]
VALUES = [None, True, -1, 0, 1e308, math.nan, math.inf, "", "abc", "\x1b[31m\n", [], {}, [1, 2], 10**30]
WORDS = ["null", "true", "-1", "0", "1e308", "nan", "inf", "''", "abc", "[]", "{}", "[1,2]", str(10**30)]


def composed(command, arguments):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(hydra_compose(command, overrides=arguments))


def declarations(settings):
    """Return the declared type of every setting of a command by its dotted path."""
    return {
        f"{block.path}{name}": hint for block in blocks(settings) for name, (hint, _) in declared(block.kind).items()
    }


def changed(config, path, value):
    name, _, rest = path.partition(".")
    return {**config, name: changed(config[name], rest, value) if rest else value}


def holds(hint, value):
    """Return whether an accepted value lies in its range, by the marks of its type alone."""
    plain_hint, marks = split_marks(hint)
    if len(alternatives(plain_hint)) > 1:
        return any(holds(each, value) for each in alternatives(plain_hint))
    if isinstance(value, list):
        return True
    ranges = [mark for mark in marks if isinstance(mark, In)]
    return not ranges or (isinstance(value, int | float) and math.isfinite(value) and all(value in r for r in ranges))


def takes(hint, value):
    try:
        accepted(hint, value)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("command", "arguments"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_a_hostile_value_is_accepted_in_its_range_or_refused_by_its_path(command, arguments):
    config = composed(command, arguments)
    types, outcomes = declarations(typed(KINDS[command], config)), {"accepted": 0, "refused": 0}
    paths = [path for path in flatten(config) if path in types]
    assert len(paths) >= len(declared(KINDS[command])) - 1
    for path in paths:
        for value in VALUES:
            try:
                typed(KINDS[command], changed(config, path, value))
            except UserError as error:
                lines = str(error).splitlines()
                outcomes["refused"] += 1
                if takes(types[path], value):
                    # It contradicts another setting, which may be of another layer.
                    assert all(line.partition("=")[0].split(".")[0] in config for line in lines), lines
                else:
                    assert len(lines) == 1, lines
                    assert lines[0].startswith((f"{path}=", f"{path}:", f"{path} ")), lines
            else:
                outcomes["accepted"] += 1
                assert holds(types[path], value), (path, value)
    assert outcomes["refused"] > 0 < outcomes["accepted"]


@pytest.mark.parametrize("command", KINDS)
def test_null_or_a_number_for_a_block_is_refused_by_its_path(command):
    config = composed(command, CHOICES[command])
    parts = [path for path in ("stack", "data", "device", "recipe", "arms", "tuning", "stack.stages") if path in config]
    for path in parts:
        for value in (None, 5, "abc", [1]):
            with pytest.raises(UserError, match=f"^{path}="):
                typed(KINDS[command], changed(config, path, value))


def outcome(command, argument, extra):
    """Return how a command answers one more argument: "accepted", or the lines of its refusal."""
    given = [*(each for each in extra if each.partition("=")[0] != argument.partition("=")[0]), argument]
    try:
        typed(KINDS[command], composed(command, prepared(given, KINDS[command], CONF, command)))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return error_lines(error, CONF, command, given)
    return "accepted"


@pytest.mark.slow
@pytest.mark.parametrize(("command", "arguments"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_no_argument_of_a_command_ends_in_a_traceback(command, arguments):
    config = composed(command, arguments)
    groups = [path for path in config if (CONF / path).is_dir()]
    for path in [*flatten(config), *groups]:
        for word in WORDS:
            answer = outcome(command, f"{path}={word}", arguments)
            assert answer == "accepted" or (answer and all(line.isprintable() for line in answer)), (path, word)


@pytest.mark.parametrize(
    ("command", "argument"),
    [
        (command, f"{group}={word}")
        for command, group in (
            ("stage", "stack"),
            ("describe", "data"),
            ("compare", "arms"),
            ("compare", "device"),
            ("finetune", "recipe"),
            ("compare", "experiment"),
        )
        for word in ("null", "5", "[a,b]", "{}")
    ],
)
def test_a_group_takes_a_name_and_nothing_else(command, argument):
    (line,) = outcome(command, argument, CHOICES[command])
    assert line.startswith(f"{argument} is not known;")
