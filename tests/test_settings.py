"""Settings: from plain values to typed objects and back, and in which of them a resumed run may differ."""

from dataclasses import dataclass, fields, replace

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
    UserError,
    load_stack_settings,
)
from pretrain.command_line.command import CONF, plain
from pretrain.command_line.error_lines import nearest_setting
from pretrain.pipelines.run_settings import FinetuningRun, ProbeRun, StageRun
from pretrain.runs.setting_types import FileName
from pretrain.runs.typed_settings import Resuming, Settings, as_config, may_differ, setting, typed

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


def composed(command, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose(command, overrides=["out=x", *overrides]))


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
        {"labels", "seeds", "baseline", "probe"},
        {"out", "jobs", "worker", "overwrite", "dry_run", "data.cache"},
    )
    assert {*may_differ(comparison)} == grows | free | {"device.accelerator", "device.threads"}


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
        (lambda stack: FolderData(None), "^root=null: it must be the name of a file or folder"),
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
