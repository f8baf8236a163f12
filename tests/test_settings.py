"""Settings: from plain values to typed objects and back, and in which of them a resumed run may differ."""

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

import pytest
from hydra import compose, initialize_config_dir

from pretrain import (
    Arm,
    CIFAR10Data,
    Comparison,
    Device,
    DigitsData,
    FolderData,
    Recipe,
    Stage,
    UserError,
    load_stack_settings,
)
from pretrain.command_line.arguments import prepared, settings_given
from pretrain.command_line.blocks import without_effect
from pretrain.command_line.command import CONF, plain
from pretrain.command_line.error_lines import nearest_setting
from pretrain.command_line.settings_table import with_tables
from pretrain.pipelines.run_settings import FinetuningRun, ProbeRun, StageRun
from pretrain.runs.setting_types import NO_REPEATS, ONE_OR_MORE, FileName, In, PlainName, accepted, in_words
from pretrain.runs.typed_settings import Resuming, Settings, as_config, may_differ, setting, typed
from pretrain.stages.kind_settings import settings_of

KINDS = {"stage": StageRun, "finetune": FinetuningRun, "probe": ProbeRun, "compare": Comparison}


@dataclass(frozen=True)
class Part(Settings):
    size: int = 3
    where: FileName | None = setting(None, resuming=Resuming.FREE)


@dataclass(frozen=True)
class Whole(Settings):
    name: str
    part: Part = setting(factory=Part)
    parts: dict[str, Part] = setting(factory=dict)
    more: int = setting(0, resuming=Resuming.GROWS)


def is_out(argument):
    return argument.startswith("out=")


def composed(command, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(
            compose(
                command,
                overrides=overrides if any(map(is_out, overrides)) else ["out=x", *overrides],
            )
        )


def test_nested_settings_become_objects_and_go_back():
    config = {"name": "a", "part": {"size": 4, "where": "b"}, "parts": {"c": {"size": 5, "where": None}}, "more": 1}
    whole = typed(Whole, config)
    assert whole == Whole("a", Part(4, "b"), {"c": Part(5)}, 1)
    assert as_config(whole) == config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "^name is missing: give text.$"),
        ({"name": "a", "nam": 1}, "^nam: there is no such setting; did you mean name?"),
        ({"name": "a", "part": {"siz": 1}}, r"^part\.siz: there is no such setting; did you mean size?"),
        ({"name": "a", "part": {"size": "b"}}, r"^part\.size=b: it must be a whole number.$"),
        ({"name": "a", "part": 3}, "^part=3: give settings by their names"),
        ({"name": "a", "parts": [1]}, "^parts=.*: give a name, and settings under it"),
        ({"name": "a", "parts": {"b": {"size": 1.5}}}, r"^parts\.b\.size=1\.5: it must be a whole number.$"),
    ],
)
def test_a_wrong_setting_is_named_by_its_path(config, message):
    with pytest.raises(UserError, match=message):
        typed(Whole, config)


def test_each_field_says_whether_a_resumed_run_may_differ_in_it():
    assert may_differ(Whole("a")) == ["part.where", "more"]


@pytest.mark.parametrize(("given", "path"), [(2024, "2024"), ("~/a", "{home}/a"), ("a~", "a~"), (None, None)])
def test_a_path_is_a_name_from_the_home_folder_on(given, path, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert typed(Part, {"where": given}).where == (path and path.format(home=tmp_path))


def test_what_binds_a_comparison_is_what_decides_its_results():
    comparison = Comparison(out="x", stack=load_stack_settings("cae_small"))
    grows, free = (
        {"labels", "seeds", "half_width", "baseline", "probe", "compute"},
        {"out", "detect", "shared_by", "jobs", "overwrite", "dry_run", "data.cache", "data.unlabelled"},
    )
    free |= {f"slurm.{each.name}" for each in fields(comparison.slurm)}
    assert {*may_differ(comparison)} == grows | free | {"device.accelerator", "device.devices", "device.threads"}


@pytest.mark.parametrize("command", KINDS)
def test_defaults_in_python_are_those_of_the_command_line(command):
    config = composed(command)
    settings = typed(KINDS[command], config)
    assert typed(KINDS[command], as_config(settings)) == settings
    alone = KINDS[command](out="x", stack=settings.stack)
    recipe = {"recipe": settings.recipe} if hasattr(settings, "recipe") else {}
    assert replace(alone, **recipe) == settings
    assert {each.name for each in fields(settings)} - {"arm"} == {*config}


@pytest.mark.parametrize("data", [DigitsData(), CIFAR10Data("data"), FolderData("~/photos", 16, unlabelled="more")])
def test_a_data_set_is_found_again_by_its_name(data):
    config = as_config(data)
    found = typed(StageRun, {"out": "x", "stack": as_config(load_stack_settings("cae_small")), "data": config}).data
    assert (
        as_config(found)["unlabelled"] == as_config(data)["unlabelled"] == (["more"] if data.name == "folder" else [])
    )


def test_the_recipe_of_the_file_is_that_of_the_class():
    assert typed(FinetuningRun, composed("finetune", "recipe=default")).recipe == Recipe()
    assert typed(StageRun, composed("stage")).device == Device()


def test_an_arm_keeps_only_what_it_sets():
    arm = typed(Comparison, composed("compare")).arms["pretrained-frozen"]
    assert arm.to_config() == {"init": "pretrained", "recipe": {"freeze": True}}
    assert Arm.from_config(arm.to_config(), "arms.a") == arm
    assert Arm.from_config(None, "arms.a") == Arm()


@pytest.mark.parametrize(
    ("typed_key", "meant"),
    [
        ("sed", "seed"),
        ("stack.stages.stage1.layer.kernal_size", "stack.stages.stage1.layer.kernel_size"),
        ("stack.stages.stage1.kernel_size", "stack.stages.stage1.layer.kernel_size"),
        ("recip.learning_rat", "recipe.learning_rate"),
        ("nothing_of_the_kind", None),
    ],
)
def test_the_nearest_setting_is_found_at_every_level(typed_key, meant):
    assert nearest_setting(typed_key, composed("finetune")) == meant


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda stack: Comparison(out="x", stack="cae_small"), "^stack=cae_small: give settings by their names"),
        (
            lambda stack: Comparison(out="x", stack=stack, data=3),
            "^data=3 is not a data set: give its name",
        ),
        (
            lambda stack: Comparison(out="x", stack=stack, arms={"a": 3}),
            r"^arms\.a=3: give the settings",
        ),
        (lambda stack: Comparison(out="x", stack=stack, jobs="many"), "^jobs=many: it must be a whole number"),
        (lambda stack: Comparison(out=None, stack=stack), "^out=null: it must be the name of a file or folder"),
        (lambda stack: Arm(recipe=Recipe()), "^recipe=.*: give a name, and settings under it"),
        (lambda stack: Recipe(steps="fast"), "^steps=fast: it must be a whole number"),
        (
            lambda stack: DigitsData(validation="a"),
            "^validation=a: it must be a whole number at least 0, or",
        ),
        (lambda stack: FolderData(None), "^root is missing: give the folder of labelled images"),
        (
            lambda stack: replace(stack, normalization="twice"),
            r"^normalization=twice is not known; choose one of",
        ),
        (
            lambda stack: FinetuningRun(out="x", stack=stack, recipe=Recipe(crop=8)),
            "^recipe.crop=8: it must be from 0",
        ),
        (lambda stack: load_stack_settings("cea"), "^stack=cea is not known; did you mean cae"),
    ],
)
def test_what_is_made_in_python_is_checked_as_on_the_command_line(make, message):
    with pytest.raises(UserError, match=message):
        make(load_stack_settings("cae_small"))


def test_paths_and_ranges_are_taken_from_python(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    comparison = Comparison(out=tmp_path / "run", stack=load_stack_settings("cae_small"), seeds=range(3))
    assert (comparison.out, comparison.seeds) == (str(tmp_path / "run"), [0, 1, 2])
    assert replace(comparison, out="~/run").out == comparison.out
    arm = Arm("pretrained", recipe={"layer_rates": (0.1, 1.0)})
    assert arm.to_config()["recipe"] == {"layer_rates": [0.1, 1.0]}


def test_the_docs_list_the_settings_as_they_are_declared():
    page = (CONF.parent / "docs" / "settings.md").read_text()
    assert with_tables(page) == page, "run python -m pretrain.command_line.settings_table docs/settings.md"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Annotated[float, In(ge=0, le=1)], "a number from 0 to 1"),
        (Annotated[float, In(gt=0, lt=1)] | None, "a number above 0 and below 1, or null"),
        (
            Annotated[list[Annotated[int, In(ge=1)]], NO_REPEATS],
            "a list of one or more without repeats, each a whole number at least 1",
        ),
        (Literal["a", "b"], "a or b"),
    ],
)
def test_a_declared_type_is_put_in_words(hint, words):
    assert in_words(hint) == words


@pytest.mark.parametrize(
    ("hint", "value", "taken"),
    [
        (float, 1, 1.0),
        (float, True, ValueError),
        (float, math.nan, ValueError),
        (float, -math.inf, ValueError),
        (float, 1e39, ValueError),
        (float, 10**400, ValueError),
        (float, "1", ValueError),
        (int, 1.0, ValueError),
        (int, False, ValueError),
        (int, 2**63 - 1, 2**63 - 1),
        (int, 2**63, ValueError),
        (bool, 1, ValueError),
        (int | None, None, None),
        (str, 3, ValueError),
        (FileName, 3, "3"),
        (FileName, "", ValueError),
        (FileName, "a\nb", ValueError),
        (FileName, ["a"], ValueError),
        (PlainName, "a b-c", "a b-c"),
        (PlainName, "../a", ValueError),
        (PlainName, "a/b", ValueError),
        (PlainName, "/a", ValueError),
        (PlainName, "a\\b", ValueError),
        (PlainName, ".", ValueError),
        (PlainName, "", ValueError),
        (PlainName, "a\tb", ValueError),
        (Annotated[list[FileName], ONE_OR_MORE], "a", ["a"]),
        (Annotated[list[FileName], ONE_OR_MORE], None, []),
        (Literal[0] | Annotated[float, In(ge=0.01)], 1e-300, ValueError),
    ],
)
def test_a_declared_type_takes_what_it_means_and_nothing_else(hint, value, taken):
    if taken is ValueError:
        with pytest.raises(ValueError):  # noqa: PT011
            accepted(hint, value)
    else:
        assert accepted(hint, value) == taken
        assert type(accepted(hint, value)) is type(taken)


def test_all_problems_are_listed_at_once():
    changes = ["recipe.steps=-1", "recipe.flip=3", "seed=nan", "stack.stages.stage1.sparsity_weight=-1"]
    config = composed(
        "finetune", *changes, "stack.stages.stage2.training.steps=0", "stack.stages.stage2.layer.stride=0"
    )
    with pytest.raises(UserError) as caught:
        typed(FinetuningRun, config)
    paths = {line.partition("=")[0] for line in str(caught.value).splitlines()}
    stages = {"stage1.sparsity_weight", "stage2.layer.stride", "stage2.training.steps"}
    assert paths == {"recipe.steps", "recipe.flip", "seed", *(f"stack.stages.{each}" for each in stages)}


@pytest.mark.parametrize(
    ("overrides", "unused"),
    [
        (["stack=crbm_small", "stack.stages.stage1.chains=5"], ["stack.stages.stage1.chains"]),
        (["stack=crbm_small", "stack.stages.stage1.chains=5", "stack.stages.stage1.sampler=pcd"], []),
        (["recipe.patience=3"], ["recipe.patience"]),
        (["recipe.patience=3", "recipe.early_stopping=true"], []),
        (["recipe.optimizer=adamw"], []),  # momentum has its default
        (["recipe.optimizer=adamw", "recipe.momentum=0.5"], ["recipe.momentum"]),
        (["profile=true", "dry_run=true"], ["profile"]),
        (["data=cifar10", "stack=kmeans", "stack.stages.stage1.activity=0.1"], []),
        (
            [
                "data=cifar10",
                "stack=kmeans",
                "stack.stages.stage1.activity=0.1",
                "stack.stages.stage1.layer.activation=triangle",
            ],
            ["stack.stages.stage1.activity"],
        ),
    ],
)
def test_a_given_setting_of_a_choice_that_is_not_made_is_said_to_have_no_effect(overrides, unused):
    settings = typed(FinetuningRun, composed("finetune", *overrides))
    assert [line.split()[0] for line in without_effect(settings, settings_given(overrides))] == unused


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("out=2024_07", "2024_07"),
        ("out=3.10", "3.10"),
        ("out={a}", "{a}"),
        ("out=[my (1)]", "[my (1)]"),
        ("out=[a=b]", "[a=b]"),
        ("out=it's \\", "it's \\"),
        ("out=a,b", "a,b"),
        ("out=1e5", "1e5"),
        ("data.unlabelled=[2024_01,1e5]", ["2024_01", "1e5"]),
        ("data.unlabelled=2024_01", ["2024_01"]),
        ("data.unlabelled=[my (1), a=b]", ["my (1)", "a=b"]),
        ("data.unlabelled=['a,b', c]", ["a,b", "c"]),
        ("data.cache=null", None),
        ("data.cache=007", "007"),
        ("stack.name=1_0", "1_0"),
        ("seed=1_0", 10),
    ],
)
def test_a_name_is_taken_as_it_is_written(argument, value):
    given = prepared([argument], StageRun, CONF, "stage")
    settings = typed(StageRun, composed("stage", *given))
    for name in argument.partition("=")[0].split("."):
        settings = getattr(settings, name)
    assert settings == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=1", "seed=2"], "^seed is given more than once, as 1 and 2"),
        (["+arms.a={init: scratch}", "arms.a.init=pretrained", "arms.a.init=scratch"], r"^arms\.a\.init is given more"),
        (["stack.stages={}"], r"^stack\.stages=\{\} would change nothing"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        prepared(arguments, Comparison, CONF, "compare")


@pytest.mark.parametrize("name", ["../x", "/x", "", "a/b", "a\\b", "a\nb", "..", ".hidden", " a", "a" * 101])
def test_an_arm_whose_name_is_no_plain_name_is_refused(name):
    with pytest.raises(UserError, match="it must be a name of"):
        Comparison(out="x", stack=load_stack_settings("cae_small"), arms={"scratch": Arm(), name: Arm()})


def test_settings_of_ones_own_stage_are_checked_by_its_constructor():
    class Own(Stage):
        def __init__(self, layer, *, weight: Annotated[float, In(ge=0)] = 1.0, name: str):
            super().__init__(layer)

    globals()["Own"] = Own
    with pytest.raises(UserError, match=r"^weight=-1: it must be a number at least 0\.$"):
        typed(settings_of(f"{__name__}.Own"), {"weight": -1, "name": "a"})
    with pytest.raises(UserError, match=r"^name is missing: give text\.$"):
        typed(settings_of(f"{__name__}.Own"), {})
