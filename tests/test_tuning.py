import pytest
from sklearn.model_selection import ParameterGrid

from pretrain import Tuning, UserError
from pretrain.comparison.tuning import best_candidate
from pretrain.runs.typed_settings import typed

SPACE = {"learning_rate": [0.1, 0.01, 0.001], "head_steps": [0, 10]}


def test_all_candidates_of_a_space_are_its_grid():
    assert Tuning(trials=None, space=SPACE).candidates() == list(ParameterGrid(SPACE))
    assert len(Tuning(trials=100, space=SPACE).candidates()) == 6


def test_a_random_part_of_a_space_has_no_repeats_and_is_reproducible():
    some = Tuning(trials=4, space=SPACE).candidates()
    assert some == Tuning(trials=4, space=SPACE).candidates()
    assert len({tuple(sorted(candidate.items())) for candidate in some}) == 4
    assert all(candidate in ParameterGrid(SPACE) for candidate in some)


def test_several_spaces_are_searched_one_after_the_other():
    sgd, adamw = {"optimizer": ["sgd"]}, {"optimizer": ["adamw"], "learning_rate": [0.001, 0.01]}
    spaces = {"a": sgd, "b": adamw}
    assert Tuning(trials=None, space=spaces).candidates() == [*ParameterGrid(sgd), *ParameterGrid(adamw)]
    assert typed(Tuning, {"trials": None, "space": spaces}).spaces == [sgd, adamw]
    assert typed(Tuning, {"space": SPACE}).spaces == [SPACE]


def test_the_best_candidate_has_the_best_mean_and_is_the_first_of_equals():
    assert best_candidate({0: [0.5, 0.7], 1: [0.65, 0.6], 2: [0.7, 0.55]}) == 1
    assert best_candidate({0: [0.5], 1: [0.5]}) == 0


def test_a_candidate_that_failed_once_is_ruled_out():
    assert best_candidate({0: [0.9, None], 1: [0.1, 0.1]}) == 1
    with pytest.raises(UserError, match="every trial failed"):
        best_candidate({0: [None], 1: [None, 0.5]})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"space": {"learning_rate": 0.1}}, "^space.learning_rate=0.1: give a list"),
        ({"space": {"learning_rate": []}}, "give a list of values"),
        ({"space": {"a": SPACE, "dropout": [0.1]}}, r"dropout belongs in a space: give tuning.space.a.dropout"),
        ({"space": []}, r"^space=\[\]: give a name, and settings under it"),
        ({"space": [3]}, r"^space=\[3\]: give a name, and settings under it"),
        ({"seeds": [1, 1]}, "without repeats"),
        ({"trials": -1}, "at least 0"),
    ],
)
def test_a_wrong_setting_is_named(wrong, message):
    with pytest.raises(UserError, match=message):
        Tuning(**wrong)
