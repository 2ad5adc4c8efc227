#!/usr/bin/env python3
"""Holds the probe's read bandwidth against an independent program, scripts/read-bandwidth.c, in alternation.

Usage: scripts/bandwidth-proof.py [--harness PROGRAM] [--pairs N] [--threads N] [--repetitions N]

Each pair is one start of `harness probe --quick` and one of the other program, on the same number of threads, pinned to the
same CPUs, with the same buffer; every other pair in the other order. The ratio is the Hodges-Lehmann estimate of the pairs'
log-ratios, with the interval, at least 95 %, of the exact signed-rank test. Exits with 1 if the ratio is farther than 5 % from 1.
"""
import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from interval import estimate, pairs

ALLOWED = 0.05


def probe(harness, threads, folder):
    """Bandwidth in 1e9 bytes a second, size of the buffer in bytes, CPUs."""
    command = [harness, "probe", "--quick", "--json", "--threads", str(threads), "--pages", "huge", "--results-dir", folder]
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    answer = answer["configurations"][0]
    reads = [r for r in answer["readings"] if r["what"] == "read"]
    largest = max(reads, key=lambda r: r["bytes"])
    return largest["median"], largest["bytes"], answer["cpus"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--harness", default="target/release/harness")
    parser.add_argument("--pairs", type=pairs, default=24)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repetitions", type=int, default=8)
    args = parser.parse_args()
    source = pathlib.Path(__file__).with_name("read-bandwidth.c")
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/read-bandwidth"
        # Unrolled: with one sum after the other the loop is a tenth slower than the memory.
        subprocess.run(["cc", "-O3", "-march=native", "-ffast-math", "-funroll-loops", "-fopenmp", "-o", program, source], check=True)
        _, size, cpus = probe(args.harness, args.threads, folder)
        places = ",".join(f"{{{cpu}}}" for cpu in cpus) if cpus else "cores"
        env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "OMP_PLACES": places, "OMP_PROC_BIND": "true"}

        def other():
            command = [program, str(size >> 20), str(args.repetitions)]
            return float(subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE).stdout)

        ours, theirs = [], []
        for pair in range(args.pairs):
            if pair % 2:
                theirs.append(other())
            ours.append(probe(args.harness, args.threads, folder)[0])
            if pair % 2 == 0:
                theirs.append(other())
            print(f"{pair + 1}: probe {ours[-1]:.1f}, other {theirs[-1]:.1f} GB/s", file=sys.stderr)
    ratio, low, high = estimate([math.log(a / b) for a, b in zip(ours, theirs)])
    print(f"{args.threads} threads, {size >> 20} MiB, {args.pairs} pairs: medians {statistics.median(ours):.2f} and "
          f"{statistics.median(theirs):.2f} GB/s, probe over other {ratio:.3f} (95 % interval {low:.3f} to {high:.3f})")
    sys.exit(abs(ratio - 1) > ALLOWED)


if __name__ == "__main__":
    main()
