#!/usr/bin/env python3
"""Compares greedy completions of `engine run` with llama.cpp's `llama-server`, token for token.

Usage: scripts/greedy-proof.py MODEL LLAMA_SERVER [--engine PROGRAM] [--prompts FOLDER] [-n TOKENS] [-- ENGINE FLAGS]

Both get the same text and must make the same prompt tokens of it; an end of text is never chosen. Where the completions
part, the two likeliest tokens of both sides are shown with their log-probabilities: rounding can only turn a near-tie.
Exits with 1 if a prompt's tokens differ or a completion parts where neither side sees a near-tie.
"""
import argparse
import pathlib
import sys

from llama_server import LlamaServer, complete

# The largest difference between the two likeliest tokens that counts as a near-tie, in natural-log units.
NEAR_TIE = 0.5


def gap(top):
    return top[0][1] - top[1][1]


def show(top):
    return ", ".join(f"{i} {p:.3f}" for i, p in top)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("server")
    parser.add_argument("--engine", default="target/release/engine")
    parser.add_argument("--prompts", default="engine/tests/data/prompts")
    parser.add_argument("-n", type=int, default=48)
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    same = failed = 0
    files = sorted(pathlib.Path(args.prompts).glob("*.txt"))
    with LlamaServer(args.server, args.model) as server:
        for file in files:
            text = file.read_bytes().decode()
            ids, expect, expect_top = server.complete(text, args.n, 2)
            found_ids, found, found_top = complete(args.engine, args.model, file, args.n, 2, args.flags)
            if ids != found_ids:
                failed += 1
                print(f"{file.name}: the prompt's tokens differ")
            elif expect == found and len(found) == args.n:
                same += 1
                print(f"{file.name}: {args.n} tokens identical")
            elif expect[:len(found)] == found[:len(expect)]:
                failed += 1
                print(f"{file.name}: llama.cpp wrote {len(expect)} tokens, the engine {len(found)}, of {args.n}")
            else:
                at = next(i for i, pair in enumerate(zip(expect, found)) if pair[0] != pair[1])
                near = min(gap(top) for top in (expect_top[at], found_top[at]) if top) <= NEAR_TIE
                failed += not near
                verdict = "near-tie" if near else "NO NEAR-TIE"
                print(f"{file.name}: parts at token {at}, {verdict}: llama.cpp {show(expect_top[at])}; "
                      f"engine {show(found_top[at])}")
    print(f"{same} of {len(files)} identical, {len(files) - same - failed} part at near-ties, {failed} differ")
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main())
