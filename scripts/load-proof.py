#!/usr/bin/env python3
"""Time that a program takes to write one token, from its start to its end, and its peak memory, beside llama.cpp's, in alternation.

Usage: scripts/load-proof.py MODEL LLAMA_COMPLETION [--engine PROGRAM] [--packed-cache FOLDER] [--pairs N] [--threads N]

MODEL is a GGUF file; LLAMA_COMPLETION the program of that name (`harness reference status` shows where it is). Each pair is
one start of either program that reads one prompt of a few tokens, writes one token and ends, with the same threads and
context; every other pair in the other order. llama.cpp starts in both of its ways: it packs weights anew, or with --no-repack
multiplies them as they are mapped. With --packed-cache there is one more, the engine with its packed weights in that folder.

Before each timed start of a program stands one that is not, so that what it reads is in the page cache; what others read is
taken out of it first, since memory may not hold it all. Time is the wall clock from start to end, peak memory what the kernel
says of the process (mapped file pages in memory count). The ratio is the Hodges-Lehmann estimate of the pairs' log-ratios with
the interval, at least 95 %, of the exact signed-rank test.
"""
import argparse
import itertools
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

from interval import estimate, pairs

PROMPT = "The quick brown fox"
CTX = 256


def start(command):
    """Seconds from start to end, and peak resident memory in bytes."""
    begin = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"exit code {child.returncode}: {' '.join(command)}")
    return seconds, usage.ru_maxrss * 1024


def forget(files):
    """Takes files out of the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("llama")
    parser.add_argument("--engine", default="target/release/engine")
    parser.add_argument("--packed-cache", type=pathlib.Path)
    parser.add_argument("--pairs", type=pairs, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    common = ["-m", str(args.model), "-p", PROMPT, "-n", "1", "-t", str(args.threads)]
    ours = [args.engine, "run", *common, "--ctx", str(CTX)]
    theirs = [args.llama, *common, "-c", str(CTX), "-no-cnv", "--no-warmup", "--temp", "0"]
    programs = {"engine": ours, "llama.cpp": theirs, "llama.cpp without repacking": [*theirs, "--no-repack"]}
    reads = dict.fromkeys(programs, {args.model})
    if args.packed_cache:
        kept = "engine, weights kept"
        programs[kept] = [*ours, "--set", f"packed_cache={args.packed_cache}"]
        start(programs[kept])
        told = subprocess.run(programs[kept], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace").stderr
        if "weights mapped" not in told:
            sys.exit(f"the engine takes no weights from \"{args.packed_cache}\": {told[-600:]}")
        reads[kept] = set(args.packed_cache.iterdir())
    files = set().union(*reads.values())
    results = {name: [] for name in programs}
    for pair in range(args.pairs):
        for name, command in list(programs.items())[:: -1 if pair % 2 else 1]:
            forget(files - reads[name])
            start(command)
            results[name].append(start(command))
        print(f"{pair + 1}: " + ", ".join(f"{name} {r[-1][0]:.2f} s" for name, r in results.items()), file=sys.stderr)
    size = args.model.stat().st_size
    for name, runs in results.items():
        peak = max(bytes for _, bytes in runs)
        print(f"{name}: median {statistics.median(s for s, _ in runs):.2f} s, peak memory {peak / 1e9:.2f} GB, "
              f"{peak / size:.3f} times the file's {size / 1e9:.2f} GB")
    is_ours = lambda name: name.startswith("engine")
    for name, other in itertools.product(filter(is_ours, results), itertools.filterfalse(is_ours, results)):
        ratio, low, high = estimate([math.log(b[0] / a[0]) for a, b in zip(results[name], results[other])])
        print(f"{args.threads} threads, {args.pairs} pairs: {other} takes {ratio:.2f} times as long as {name} "
              f"(at least 95 %: {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
