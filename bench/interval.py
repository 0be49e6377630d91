"""The median of measured values and an interval for it that supposes nothing about how they are distributed.

The values are taken for independent draws from one distribution with median m. How many of n of them lie below m is then
binomial with p = 1/2, so the interval from the k-th smallest to the k-th greatest holds m with probability
1 - 2 P(B <= k - 1). Of the intervals of this kind the narrowest one that reaches the level is taken. Below six values even the
whole range does not reach 95 %: then there is no interval, and nothing is to be concluded."""
from math import comb

LEVEL = 0.95


def median(values):
    v = sorted(values)
    if not v:
        raise ValueError("no values")
    half = len(v) // 2
    return v[half] if len(v) % 2 else (v[half - 1] + v[half]) / 2


def coverage(n, k):
    """The probability that the interval from the k-th smallest to the k-th greatest of n values holds the median."""
    return 1 - 2 * sum(comb(n, i) for i in range(k)) / 2**n


def rank(n, level=LEVEL):
    """The greatest k whose interval reaches the level, or 0."""
    k = 0
    while 2 * (k + 1) <= n and coverage(n, k + 1) >= level:
        k += 1
    return k


def interval(values, level=LEVEL):
    """(low, high), or None if there are too few values."""
    v, k = sorted(values), rank(len(values), level)
    return (v[k - 1], v[-k]) if k else None
