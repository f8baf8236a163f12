"""What the report says of compute, for each verdict that there is."""

from dataclasses import replace

import pytest

from pretrain.comparison.compute_frontier import VERDICTS, ComputeFrontier, Difference
from pretrain.comparison.paired_differences import Estimate
from pretrain.reporting.compute_text import predicate, sentence

OF = {"pays": (0.02, 0.01), "hurts": (-0.02, 0.01), "unclear": (0.001, 0.9)}


def frontier(least, most, crossings=(), unclear=(), seeds=5, **changed):
    """Return a frontier of 2 to 8 GFLOP with these verdicts at its ends."""
    ends = [
        Difference(total, Estimate(seeds, OF[said][0], OF[said][0] - 0.01, OF[said][0] + 0.01), p, p)
        for total, said in ((2e9, least), (8e9, most))
        for p in [OF[said][1]]
    ]
    values = {"ends": tuple(ends), "crossings": crossings, "unclear": unclear, "gap": None, "enough": None}
    values |= {"shared_by": 1, "arm_range": (2e9, 9e9), "baseline_range": (1e9, 8e9)}
    return ComputeFrontier("pretrained", "scratch", 50, seeds, **(values | changed))


@pytest.mark.parametrize(
    ("least", "most", "crossings", "unclear", "expected"),
    [
        ("pays", "pays", (), (), "pays from 2 GFLOP to 8 GFLOP, as far as both were run"),
        ("hurts", "hurts", (), (), "hurts from 2 GFLOP to 8 GFLOP, as far as both were run"),
        (
            *("pays", "pays", (4e9, 4.4e9), ((3e9, 5e9),)),
            "pays with the least and with the most compute of both, 2 GFLOP and 8 GFLOP, "
            "but no difference is clear at 3 GFLOP to 5 GFLOP",
        ),
        ("hurts", "pays", (4e9,), ((3e9, 5e9),), "pays from 4 GFLOP on (95% interval from 3 GFLOP to 5 GFLOP)"),
        ("unclear", "pays", (2.5e9,), ((2e9, 5e9),), "pays from 2.5 GFLOP on (95% interval up to 5 GFLOP)"),
        (
            *("unclear", "pays", (), ((2e9, 5e9),)),
            "pays from 2 GFLOP on, the least that both were run with (95% interval up to 5 GFLOP)",
        ),
        ("pays", "hurts", (4e9,), ((3e9, 5e9),), "pays up to 4 GFLOP (95% interval from 3 GFLOP to 5 GFLOP)"),
        ("pays", "unclear", (7e9,), ((3e9, 8e9),), "pays up to 7 GFLOP (95% interval from 3 GFLOP on)"),
        (
            *("pays", "unclear", (), ((3e9, 8e9),)),
            "pays up to 8 GFLOP, the most that both were run with (95% interval from 3 GFLOP on)",
        ),
        ("hurts", "unclear", (7e9,), ((3e9, 8e9),), "hurts up to 7 GFLOP (95% interval from 3 GFLOP on)"),
        ("unclear", "hurts", (3e9,), ((2e9, 5e9),), "hurts from 3 GFLOP on (95% interval up to 5 GFLOP)"),
        (
            *("unclear", "unclear", (3e9,), ((2e9, 8e9),)),
            "no detectable difference from 2 GFLOP to 8 GFLOP, as far as both were run; the curves cross at 3 GFLOP",
        ),
        (
            *("unclear", "unclear", (), ((2e9, 8e9),)),
            "no detectable difference from 2 GFLOP to 8 GFLOP, as far as both were run",
        ),
    ],
)
def test_each_verdict_has_its_words(least, most, crossings, unclear, expected):
    assert predicate(frontier(least, most, crossings, unclear)) == expected


def test_every_verdict_has_words_of_its_own():
    said = {predicate(frontier(*ends, (4e9,), ((3e9, 5e9),))).split(" (")[0] for ends in VERDICTS}
    assert len(said) == len({*VERDICTS.values()})


def test_of_several_crossings_the_verdict_names_the_one_next_to_its_end():
    several = (3e9, 5e9, 6e9)
    assert "from 6 GFLOP on" in predicate(frontier("hurts", "pays", several, ((2.5e9, 7e9),)))
    assert "up to 3 GFLOP" in predicate(frontier("pays", "hurts", several, ((2.5e9, 7e9),)))


def test_a_sentence_has_the_numbers_and_what_was_not_run():
    assert sentence(frontier("hurts", "pays", (4e9,), ((3e9, 5e9),))) == (
        "pretrained against scratch, 50 labels, pretraining charged in full: pays from 4 GFLOP on (95% interval from "
        "3 GFLOP to 5 GFLOP). The difference is -2.00 points (95% interval -3.00 to -1.00, corrected p = 0.01) with "
        "2 GFLOP and +2.00 points (95% interval +1.00 to +3.00, corrected p = 0.01) with 8 GFLOP, n = 5. There is no "
        "run of pretrained with less than 2 GFLOP, nor of scratch with more than 8 GFLOP."
    )
    shorter = frontier("pays", "pays", arm_range=(2e9, 8e9), baseline_range=(1e9, 9e9), shared_by=10)
    assert "50 labels, pretraining shared by 10 trainings: pays" in sentence(shorter)
    assert sentence(shorter).endswith("There is no run of pretrained with less than 2 GFLOP or more than 8 GFLOP.")
    free = frontier("pays", "pays", arm_range=(2e9, 8e9), baseline_range=(2e9, 8e9), shared_by=0)
    assert sentence(free).startswith("pretrained against scratch, 50 labels: pays from")
    assert sentence(free).endswith("n = 5.")


def test_an_arm_with_a_single_cost_is_judged_there_alone():
    two = frontier("hurts", "hurts", arm_range=(2e9, 2e9))
    only = replace(two, ends=two.ends[:1])
    assert ": hurts with 2 GFLOP, the only compute of both. The difference is -2.00 points" in sentence(only)
    assert sentence(only).endswith("with 2 GFLOP, n = 5.")


def test_few_seeds_are_said_to_be_too_few_and_two_show_no_interval():
    found = sentence(frontier("hurts", "pays", (4e9,), ((3e9, 5e9),), seeds=2))
    assert "in full: too few seeds for a claim; the curves cross at 4 GFLOP. " in found
    assert "The difference is -2.00 points with 2 GFLOP and" in found


def test_a_sentence_says_what_to_run_where_no_compute_is_common():
    apart = {"ends": (), "gap": Estimate(5, 0.03, 0.01, 0.05), "enough": 6.25, "arm_range": (1e13, 1.2e13)}
    assert sentence(frontier("pays", "pays", **apart, baseline_range=(1e12, 4e12))) == (
        "pretrained against scratch, 50 labels, pretraining charged in full: not comparable yet, since none was run "
        "with the compute of the other. pretrained costs at least 10 TFLOP, and scratch was run with at most 4 TFLOP. "
        "The difference between these two is +3.00 points (95% interval +1.00 to +5.00), n = 5. Their curves would "
        "meet with a multiple of at least 6.25 in compute."
    )
    reverse = sentence(frontier("pays", "pays", **(apart | {"enough": None}), baseline_range=(4e13, 5e13)))
    assert "scratch costs at least 40 TFLOP, and pretrained was run with at most 12 TFLOP." in reverse
    assert "would meet" not in reverse
