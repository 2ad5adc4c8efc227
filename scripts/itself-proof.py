#!/usr/bin/env python3
"""Tests the method of comparisons: the engine against itself, many times, and against itself slowed on purpose.

Usage: scripts/itself-proof.py [--harness PROGRAM] [--scenario FILE] [--repeats N] [--slow-down PERCENT]

Runs `harness compare --itself` so many times, and once with --slow-down and --strict. Exits with 1 if fewer than 19 in 20
comparisons say "no difference" in both phases, or the slowed engine is not called slower in decode.
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile


def compare(args, more):
    """Verdict, ratio and interval by phase, and the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        command = [args.harness, "compare", "--itself", "--no-report", "--results-dir", folder, *more, args.scenario]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
        found = list(pathlib.Path(folder).glob("*/comparison.json"))
        if not found:
            sys.exit(f"{' '.join(command)}: exit code {code} and no comparison")
        phases = json.loads(found[0].read_text())["cases"][0]["phases"]
    results = {}
    for phase in phases:
        change = phase["judged"]["change"]
        interval = change["interval"]
        results[phase["rate"]] = (phase["verdict"], change["ratio"], interval["low"], interval["high"])
    return results, code


def show(name, results, code):
    for rate, (verdict, ratio, low, high) in results.items():
        print(f"{name}: {rate} {verdict}, {ratio:.3f} ({low:.3f} to {high:.3f}), exit code {code}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--harness", default="target/release/harness")
    parser.add_argument("--scenario", default="scenarios/strict.toml")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--slow-down", type=float, default=5.0)
    args = parser.parse_args()
    verdicts = collections.defaultdict(collections.Counter)
    for repeat in range(args.repeats):
        results, code = compare(args, [])
        show(f"itself {repeat + 1}", results, code)
        for rate, (verdict, *_) in results.items():
            verdicts[rate][verdict] += 1
    for rate, counted in verdicts.items():
        print(f"{rate}: " + ", ".join(f"{n} x {verdict}" for verdict, n in counted.items()))
    results, code = compare(args, ["--strict", "--slow-down", str(args.slow_down)])
    show(f"slowed by {args.slow_down} %", results, code)
    same = all(counted["no difference"] >= 0.95 * args.repeats for counted in verdicts.values())
    sys.exit(not (same and results["decode"][0] == "slower"))


if __name__ == "__main__":
    main()
