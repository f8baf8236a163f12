import csv
import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch

import pretrain
from pretrain import RunFolder, UserError, fit_stages
from pretrain.data.skipped_files import Skipped
from pretrain.evaluation.kept_predictions import FILE, read_predictions
from pretrain.pipelines.layer_probing import run_probe
from pretrain.pipelines.network_finetuning import run_finetune
from pretrain.pipelines.stage_training import run_stages
from pretrain.runs.tensor_files import load_state, save_state
from pretrain.training.greedy_pretraining import load_stack
from pretrain.training.stack_building import build_stack
from pretrain.training.trainer import Trainer

# Each makes whole runs.
pytestmark = pytest.mark.integration

FINETUNE = ["recipe.steps=8", "recipe.batch_size=16", "labels=40"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, configure, digits, fabric):
    out = tmp_path_factory.mktemp("stages") / "run"
    run_stages(configure("stage", f"out={out}"), digits, fabric)
    return out


def test_a_finished_run_holds_what_the_readme_promises(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["stages"] == 2
    assert summary["images"] == 2 * 6 * 128
    files = {file.name for file in trained.iterdir()}
    pictures = {f"stage{k}-{what}.png" for k in (1, 2) for what in ("filters", "health", "reconstructions")}
    records = {"config.yaml", "env.json", "leakage.json", "metrics.jsonl", "summary.json"}
    assert files == {*records, "stack.safetensors", "pool.safetensors", ".lock", *pictures}


def test_the_command_trains_what_the_python_functions_train(trained, configure, digits, fabric):
    config = configure("stage", "out=unused")
    plan = build_stack(config.stack, digits.unlabelled, config.seed)
    fit_stages(plan.stack, digits.unlabelled, plan.training, fabric=fabric)
    saved = load_state(trained / "stack.safetensors")["stack"]
    assert all(torch.equal(saved[name], value) for name, value in plan.stack.state_dict().items())


def test_stages_can_be_trained_one_call_at_a_time(trained, configure, digits, fabric, tmp_path):
    out = tmp_path / "run"
    first = run_stages(configure("stage", f"out={out}", "upto=1"), digits, fabric)
    assert first["stages"] == 1
    assert not (out / "summary.json").exists()
    second = run_stages(configure("stage", f"out={out}"), digits, fabric)
    assert second["stages"] == 2
    one, two = (load_state(run / "stack.safetensors")["stack"] for run in (out, trained))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_a_stage_that_was_interrupted_does_not_count_as_trained(
    trained, configure, digits, fabric, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    step = Trainer.take_step

    def interrupted(loop):
        if loop.name == "stage 2" and loop.step == 4:
            raise KeyboardInterrupt
        return step(loop)

    monkeypatch.setattr(Trainer, "take_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_stages(configure("stage", f"out={out}"), digits, fabric)
    monkeypatch.setattr(Trainer, "take_step", step)
    assert run_stages(configure("stage", f"out={out}", "upto=1"), digits, fabric)["stages"] == 1
    assert not (out / "summary.json").exists()
    assert run_stages(configure("stage", f"out={out}"), digits, fabric)["stages"] == 2
    one, two = (load_state(run / "stack.safetensors")["stack"] for run in (out, trained))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_a_run_is_bound_to_the_very_stages_it_began_with(trained, configure, digits, fabric, tmp_path):
    stages = shutil.copytree(trained, tmp_path / "stages")
    config = configure("finetune", f"out={tmp_path / 'ft'}", "init=pretrained", f"stages={stages}", *FINETUNE)
    run_finetune(config, digits, fabric)
    retrained = replace(configure("stage", f"out={stages}", "seed=9"), overwrite=True)
    run_stages(retrained, digits, fabric)
    with pytest.raises(UserError, match="the trained stages are not the same"):
        run_finetune(config, digits, fabric)


def test_layers_that_saw_other_images_are_used_but_it_is_said(trained, configure, digits, fabric, tmp_path, capsys):
    options = ["init=pretrained", f"stages={trained}", *FINETUNE]
    for name, data in {"same": digits, "fewer": replace(digits, unlabelled=digits.unlabelled[1:])}.items():
        run_finetune(configure("finetune", f"out={tmp_path / name}", *options), data, fabric)
        assert ("the images have changed since" in capsys.readouterr().err) == (name == "fewer")


def test_a_head_that_is_fitted_at_once_takes_no_steps_in_place_of_pretraining(tmp_path, configure, digits, fabric):
    options = ["labels=20", "recipe.head=ridge", "recipe.freeze=true", "recipe.steps=0", "test=false"]
    options += ["extra_flops=1000000000"]
    summary = run_finetune(configure("finetune", f"out={tmp_path / 'ft'}", *options), digits, fabric)
    assert summary["steps"] == 0


def test_pretrained_layers_reach_the_network(trained, configure, digits, fabric, tmp_path):
    options = ["init=pretrained", f"stages={trained}", "recipe.freeze=true", *FINETUNE]
    summary = run_finetune(configure("finetune", f"out={tmp_path / 'ft'}", *options), digits, fabric)
    assert summary["arm"] == "pretrained-frozen"
    assert summary["pretrain_seconds"] == json.loads((trained / "summary.json").read_text())["pretrain_seconds"]
    network = pretrain.ConvNet.load(tmp_path / "ft" / "network.safetensors")
    stack = build_stack(configure("stage", "out=unused").stack, digits.unlabelled, 0).stack
    stack.load_state_dict(load_state(trained / "stack.safetensors")["stack"])
    images = digits.unlabelled[:20]
    torch.testing.assert_close(network.layers(network.preprocessing(images)), stack.below(2)(images))


def test_a_saved_network_has_the_accuracy_of_its_summary(configure, digits, fabric, tmp_path):
    options = [*FINETUNE, "device.precision=32-true"]
    summary = run_finetune(configure("finetune", f"out={tmp_path / 'ft'}", *options), digits, fabric)
    network = pretrain.ConvNet.load(tmp_path / "ft" / "network.safetensors")
    result = pretrain.evaluate(network, digits.open_test())
    assert result.accuracy == summary["test_accuracy"]
    assert result.confusion.tolist() == summary["confusion"]
    wanted = {"arm", "init", "stack", "labels", "seed", "val_accuracy", "test_accuracy"}
    assert wanted | {"pretrain_seconds", "finetune_seconds"} <= set(summary)


def test_a_complete_run_is_left_as_it_is(configure, digits, fabric, tmp_path):
    config = configure("finetune", f"out={tmp_path / 'ft'}", *FINETUNE)
    first = run_finetune(config, digits, fabric)
    nothing = replace(digits, open_test=lambda: pytest.fail("the test split was opened again"))
    assert run_finetune(config, nothing, fabric) == first


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init=pretrained"], "needs trained stages"),
        (["init=pretrained", "stages=nowhere"], "holds no run"),
        (["init=guess"], "choose one of scratch, pretrained"),
        (["labels=7"], "from 10 .one per class. to 1000"),
        (["labels=100000"], "from 10 .one per class. to 1000"),
        (["labels=many"], "it must be all, or a whole number"),
        (["recipe.steps=0"], "nothing would learn"),
        (["recipe.learning_rate=fast"], "recipe.learning_rate=fast: it must be a number"),
        (["stack.stages.stage1.layer.activation=step"], "choose one of relu"),
        (["stack.stages.stage1.layer.stride=3", "stack.stages.stage1.layer.padding=0"], "do not come out whole"),
    ],
)
def test_a_mistake_is_named(configure, digits, fabric, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        run_finetune(configure("finetune", f"out={tmp_path / 'ft'}", *FINETUNE, *overrides), digits, fabric)


def test_stages_of_another_stack_are_refused_by_the_setting_that_differs(trained, configure, digits, fabric, tmp_path):
    options = ["init=pretrained", f"stages={trained}", "stack.stages.stage2.layer.kernel_size=5"]
    with pytest.raises(UserError, match=r"stack\.stages\.stage2\.layer\.kernel_size is 3 there and 5 here"):
        run_finetune(configure("finetune", f"out={tmp_path / 'ft'}", *options), digits, fabric)


def test_a_probe_is_of_the_trained_layers_or_of_those_a_network_starts_from(
    trained, configure, digits, fabric, tmp_path
):
    pretrained = ["init=pretrained", f"stages={trained}"]
    for arm, options in (("pretrained", pretrained), ("random", [])):
        summary = run_probe(configure("probe", f"out={tmp_path / arm}", "labels=40", *options), digits, fabric)
        assert RunFolder(tmp_path / arm).summary() == summary
        assert (summary["arm"], summary["labels"], summary["seed"]) == (arm, 40, 0)
        stack = build_stack(configure("probe", "out=unused").stack, digits.unlabelled, 0).stack
        if arm == "pretrained":
            load_stack(stack, load_state(trained / "stack.safetensors"))
        start = {"seed": 0, "pretrained": arm == "pretrained", "unlabelled": digits.unlabelled}
        expected = pretrain.probe_layers(pretrain.assemble(stack, digits.classes, **start), digits, labels=40)
        assert summary["depths"] == [asdict(each) for each in expected]


def test_a_complete_probe_is_left_as_it_is(configure, digits, fabric, tmp_path):
    config = configure("probe", f"out={tmp_path / 'probe'}", "labels=40")
    first = run_probe(config, digits, fabric)
    nothing = replace(digits, open_test=lambda: pytest.fail("the test split was opened again"))
    assert run_probe(config, nothing, fabric) == first


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init=pretrained"], "needs trained stages"),
        (["init=pretrained", "stages={trained}", "stack.preprocessing=whiten"], "stack.preprocessing is standardize"),
        (["labels=7"], "from 10 .one per class. to 1000"),
        (["labels=many"], "it must be all, or a whole number"),
    ],
)
def test_a_mistake_in_a_probe_is_named(trained, configure, digits, fabric, tmp_path, overrides, message):
    options = [override.format(trained=trained) for override in overrides]
    with pytest.raises(UserError, match=message):
        run_probe(configure("probe", f"out={tmp_path / 'probe'}", *options), digits, fabric)


def test_skipped_files_are_listed_in_the_run(configure, digits, fabric, tmp_path):
    some = replace(digits, skipped=[Skipped('a,"b".jpg', "truncated"), Skipped("c.txt", "no image")])
    summary = run_stages(configure("stage", f"out={tmp_path / 'run'}", "upto=1"), some, fabric)
    assert summary["skipped"] == 2
    with (tmp_path / "run" / "skipped.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["path", "reason"], ['a,"b".jpg', "truncated"], ["c.txt", "no image"]]


def test_settings_reach_the_recipe(configure):
    settings = configure("finetune", "out=x", "recipe.layer_rates=[0.1,0.5]", "recipe.head_steps=3").recipe
    assert (settings.layer_rates, settings.head_steps) == ([0.1, 0.5], 3)


@pytest.mark.parametrize(
    ("name", "sampled"),
    [("crbm_small", {1, 2}), ("crbm", {1, 2, 3}), ("mixed", {1})],
    ids=["crbm_small", "crbm", "mixed"],
)
def test_stacks_of_rbms_go_the_same_way_as_autoencoders(name, sampled, configure, digits, fabric, tmp_path):
    stages = 3 if name != "crbm_small" else 2
    small = [f"stack={name}", "device.precision=32-true"]
    if stages == 3:
        small += ["stack.stages.stage3.layer.out_channels=9", "stack.stages.stage3.training.steps=6"]
    run_stages(configure("stage", f"out={tmp_path / 'stages'}", *small), digits, fabric)
    assert {int(file.stem[5]) for file in (tmp_path / "stages").glob("stage*-samples.png")} == sampled
    assert len(list((tmp_path / "stages").glob("stage*-health.png"))) == stages
    pretrained = ["init=pretrained", f"stages={tmp_path / 'stages'}"]
    summary = run_finetune(
        configure("finetune", f"out={tmp_path / 'ft'}", *small, *pretrained, *FINETUNE), digits, fabric
    )
    network = pretrain.ConvNet.load(tmp_path / "ft" / "network.safetensors")
    assert pretrain.evaluate(network, digits.open_test()).accuracy == summary["test_accuracy"]


@pytest.fixture
def copied(trained, tmp_path):
    """Return a copy of the folder of the trained stages, to be damaged."""
    return shutil.copytree(trained, tmp_path / "copied")


def other_stages(configure, digits, fabric, folder, *options):
    run_stages(configure("stage", f"out={folder}", *options), digits, fabric)
    return folder / "stack.safetensors"


@pytest.mark.parametrize("foreign", ["seed=1", "upto=1", "nothing", "missing"])
def test_stages_that_the_named_run_did_not_train_are_refused(copied, configure, digits, fabric, tmp_path, foreign):
    file = copied / "stack.safetensors"
    if foreign == "missing":
        file.unlink()
    elif foreign == "nothing":
        save_state(file, {"finished": 2, "stack": None})
    else:
        shutil.copy(other_stages(configure, digits, fabric, tmp_path / "other", foreign), file)
    settings = configure("finetune", f"out={tmp_path / 'ft'}", "init=pretrained", f"stages={copied}", "labels=20")
    with pytest.raises(UserError, match=r"stack\.safetensors is damaged \(it is (not what the run wrote|missing)"):
        run_finetune(settings, digits, fabric)
    assert not (tmp_path / "ft").exists()


def test_a_comparison_given_as_stages_is_told_which_folder_to_give(copied, configure, digits, fabric, tmp_path):
    inside = shutil.copytree(copied, tmp_path / "comparison" / "stages" / "seed-0")
    shutil.copy(copied / "config.yaml", tmp_path / "comparison")
    settings = configure("finetune", f"out={tmp_path / 'ft'}", "init=pretrained", f"stages={tmp_path / 'comparison'}")
    with pytest.raises(UserError, match=rf"holds no trained stages.*such as {inside}"):
        run_finetune(settings, digits, fabric)


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_complete_run_without_its_network_says_so_and_may_run_again(configure, digits, fabric, tmp_path, damage):
    options = [f"out={tmp_path / 'ft'}", "labels=20", "recipe.steps=5"]
    first = run_finetune(configure("finetune", *options), digits, fabric)
    file = tmp_path / "ft" / "network.safetensors"
    whole = file.read_bytes()
    file.unlink() if damage == "missing" else file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"network\.safetensors is damaged.*overwrite=true"):
        run_finetune(configure("finetune", *options), digits, fabric)
    again = run_finetune(configure("finetune", *options, "overwrite=true"), digits, fabric)
    assert again["test_accuracy"] == first["test_accuracy"]
    assert file.read_bytes() == whole


def test_a_run_keeps_its_predictions_which_are_those_of_its_network(configure, digits, fabric, tmp_path):
    out = tmp_path / "ft"
    summary = run_finetune(configure("finetune", f"out={out}", *FINETUNE, "device.precision=32-true"), digits, fabric)
    kept, test = read_predictions(RunFolder(out)), digits.open_test()
    assert kept.correct.mean() == pytest.approx(summary["test_accuracy"])
    assert (kept.labels == test.labels.numpy()).all()
    assert kept.images_digest == digits.labelled_digest
    probabilities = pretrain.ConvNet.load(out / "network.safetensors").predict_proba(test.images)
    assert (kept.predicted == probabilities.argmax(dim=1).numpy()).all()
    torch.testing.assert_close(torch.from_numpy(kept.probabilities).float(), probabilities, rtol=1e-3, atol=1e-7)


def test_predictions_are_missed_where_the_run_kept_some_and_only_there(configure, digits, fabric, tmp_path):
    out = tmp_path / "ft"
    run_finetune(configure("finetune", f"out={out}", *FINETUNE, "test=false"), digits, fabric)
    assert read_predictions(RunFolder(out)) is None
    out = tmp_path / "tested"
    run_finetune(configure("finetune", f"out={out}", *FINETUNE), digits, fabric)
    (out / FILE).unlink()
    with pytest.raises(UserError, match=r"test-predictions\.safetensors is damaged \(it is missing"):
        read_predictions(RunFolder(out))


@pytest.mark.parametrize("name", ["label_seed", "weight_seed", "order_seed"])
def test_a_single_draw_may_have_a_seed_of_its_own(name, configure, digits, fabric, tmp_path):
    """All draws of seed 1, given one by one, are the run of seed 1; and each of them changes the run of seed 0."""

    def result(folder, *options):
        run_finetune(configure("finetune", f"out={tmp_path / folder}", *FINETUNE, *options), digits, fabric)
        return read_predictions(RunFolder(tmp_path / folder)).probabilities

    one_by_one = result("one by one", "label_seed=1", "weight_seed=1", "order_seed=1")
    assert (one_by_one == result("seed 1", "seed=1")).all()
    assert (result("changed", f"{name}=1") != result("seed 0")).any()
