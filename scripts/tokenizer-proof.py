#!/usr/bin/env python3
"""Compares the ids of `engine tokenize` with those of llama.cpp's `llama-server`: whole texts and each of their lines, with
and without special tokens.

Usage: scripts/tokenizer-proof.py MODEL LLAMA_SERVER [TEXT...] [--engine PROGRAM]

Both programs read the model's vocabulary once a kind of comparison at most, so that all texts take seconds. Exits with 1 if
anything differs.
"""
import argparse
import subprocess
import sys

from llama_server import LlamaServer


def engine_ids(args, text, flags):
    """For each line that the engine prints, its ids."""
    command = [args.engine, "tokenize", "-m", args.model, "--ids", *flags, "-"]
    out = subprocess.run(command, input=text, check=True, capture_output=True).stdout.decode()
    return [[int(i) for i in line.split()] for line in out.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("server")
    parser.add_argument("texts", nargs="*", default=["engine/tests/data/tokenizer-lines.txt"])
    parser.add_argument("--engine", default="target/release/engine")
    args = parser.parse_args()
    compared = tokens = differ = 0
    with LlamaServer(args.server, args.model) as server:
        for path in args.texts:
            whole = open(path, "rb").read()
            lines = whole.removesuffix(b"\n").split(b"\n")
            for special in (True, False):
                flags = [] if special else ["--no-special", "--no-parse-special"]
                found = engine_ids(args, whole, flags) + engine_ids(args, whole, [*flags, "--lines"])
                for text, ids in zip([whole, *lines], found, strict=True):
                    expect = server.tokenize(text.decode(), special)
                    compared += 1
                    tokens += len(ids)
                    if ids != expect:
                        differ += 1
                        at = next((i for i, pair in enumerate(zip(ids, expect)) if pair[0] != pair[1]), "the end")
                        print(f"{path}: {text[:60]!r} differs from token {at} on, special tokens: {special}", file=sys.stderr)
    print(f"{compared} texts, {tokens} tokens, {differ} differ")
    return 1 if differ or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
