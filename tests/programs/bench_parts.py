"""The parts of bench/ that decide: the interval of the median, verdicts, tables. Prints tests/run's lines."""
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "bench"))
import goals  # noqa: E402
import interval  # noqa: E402
import report  # noqa: E402
from plot import draw  # noqa: E402


def the_interval_has_the_ranks_of_the_sign_tests_tables():
    # n: k, from the published tables of the sign test at 95 %
    for n, k in {1: 0, 5: 0, 6: 1, 8: 1, 9: 2, 10: 2, 11: 2, 12: 3, 15: 4, 17: 5, 20: 6, 25: 8, 30: 10}.items():
        assert interval.rank(n) == k, (n, interval.rank(n))
    assert abs(interval.coverage(10, 2) - 0.978515625) < 1e-12
    assert interval.interval([5, 1, 4, 2, 3]) is None
    assert interval.interval([10, 1, 9, 2, 8, 3, 7, 4, 6, 5]) == (2, 9)
    assert interval.median([3, 1, 2]) == 2 and interval.median([4, 1, 2, 3]) == 2.5


def the_interval_holds_the_median_as_often_as_it_says():
    draws, trials = random.Random(1), 4000
    for n in (6, 10, 15):
        held = 0
        for _ in range(trials):
            low, high = interval.interval([draws.lognormvariate(0, 1.5) for _ in range(n)])  # far from normal; its median is 1
            held += low <= 1 <= high
        assert abs(held / trials - interval.coverage(n, interval.rank(n))) < 0.015, (n, held / trials)


def engines(**rates):
    return {"engines": {name: {"rate": values, "command": ""} for name, values in rates.items()}}


def a_goal_is_missed_only_if_the_interval_excludes_it():
    g = goals.Goal("w", "", "ring", "raw", at_least=1.5)
    raw = [100] * 10
    def verdict(ring):
        return g.verdict(g.values(engines(ring=ring, raw=raw)))
    assert verdict([149] * 10) == "missed" and verdict([150] * 10) == "met"
    assert verdict([100] * 8 + [200] * 2) == "open" and verdict([100] * 9 + [200]) == "missed"
    assert g.verdict([1.0] * 5) == "too few rounds"
    most = goals.Goal("w", "", "ring", at_most=8)
    assert most.verdict([7] * 6) == "met" and most.verdict([9] * 6) == "missed" and most.verdict([7, 9] * 3) == "open"
    once = goals.Goal("w", "", "ours", at_most=0.6, exact=True)
    assert once.verdict([0.5]) == "met" and once.verdict([0.7]) == "missed"


def ratios_are_taken_within_a_round_and_against_the_best_of_others():
    w = engines(ring=[10, 40], a=[1, 2], b=[5, 10])
    assert goals.Goal("w", "", "ring", ("a", "b", "missing"), at_least=1).values(w) == [2, 4]
    assert goals.Goal("w", "", "ring", ("missing",), at_least=1).values(w) == []
    assert goals.Goal("w", "", "ring", "a", at_most=1, of=goals.difference_us).values(w) == [1e5 - 1e6, 25000 - 5e5]


def the_report_has_every_workload_and_goal_that_was_measured():
    w = {**engines(ring=[15.0] * 10, raw=[10.0] * 10), "text": "t", "when": "now", "commit": "c", "settings": {"form": "quick", "pairs": 10, "image-mib": 1}}
    clones = {**w, "engines": {"clone": {"ms": [4.0] * 10, "command": "parallax clone"}}}
    text = report.tables({"workloads": {"randread-4k-qd32": w, "clones": clones}, "machine": {"kernel": "6"}})
    assert "1.5 [1.5, 1.5]" in text and "met" in text and "parallax clone" in text and "97.9 %" in text, text
    assert report.missed({"workloads": {"randread-4k-qd32": w}}) == []
    slow = {**w, **engines(ring=[5.0] * 10, raw=[10.0] * 10)}
    assert len(report.missed({"workloads": {"randread-4k-qd32": slow}})) == 1


def the_plot_is_well_formed():
    import xml.dom.minidom
    text = draw([("a<b", {"ring": (1.5, (1.2, 30.0)), "NBD": (0.01, None)})], ["ring", "NBD"], "A & B")
    assert len(xml.dom.minidom.parseString(text).getElementsByTagName("circle")) == 4


TESTS = [the_interval_has_the_ranks_of_the_sign_tests_tables, the_interval_holds_the_median_as_often_as_it_says, a_goal_is_missed_only_if_the_interval_excludes_it,
         ratios_are_taken_within_a_round_and_against_the_best_of_others, the_report_has_every_workload_and_goal_that_was_measured, the_plot_is_well_formed]
failed = 0
for test in TESTS:
    try:
        test()
        print(f"ok bench: {test.__name__}")
    except AssertionError as e:
        failed = 1
        print(f"not ok bench: {test.__name__} - {e}")
sys.exit(failed)
