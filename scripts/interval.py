"""The estimate and interval that the proofs in this folder share."""
import argparse
import math
import statistics

# Pairs below which no interval of 95 % exists.
LEAST = 6


def pairs(text):
    """A number of pairs, for argparse."""
    if int(text) < LEAST:
        raise argparse.ArgumentTypeError(f"at least {LEAST}, for an interval")
    return int(text)


def estimate(logs):
    """Hodges-Lehmann estimate and the interval of the exact signed-rank test, at least 95 %, of at least `LEAST` log-ratios."""
    n = len(logs)
    walsh = sorted((logs[i] + logs[j]) / 2 for i in range(n) for j in range(i, n))
    # How many of the 2^n choices of signs give each sum of ranks.
    ways = [1]
    for rank in range(1, n + 1):
        ways = [a + b for a, b in zip(ways + [0] * rank, [0] * rank + ways)]
    below, cut = 0, -1
    while 40 * (below + ways[cut + 1]) <= 2**n:
        cut += 1
        below += ways[cut]
    return [math.exp(x) for x in (statistics.median(walsh), walsh[cut], walsh[-1 - cut])]
