"""The estimate and interval that the proofs in this folder share."""
import math
import statistics

NORMAL_95 = 1.96


def estimate(logs):
    """Hodges-Lehmann estimate and signed-rank interval, by the normal approximation."""
    n = len(logs)
    walsh = sorted((logs[i] + logs[j]) / 2 for i in range(n) for j in range(i, n))
    deviation = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    cut = max(0, math.floor(len(walsh) / 2 - NORMAL_95 * deviation))
    return [math.exp(x) for x in (statistics.median(walsh), walsh[cut], walsh[-1 - cut])]
