#!/usr/bin/env python3
"""Compares all logits of tiny random models, one of each architecture, with llama.cpp's `llama-server`.

Usage: scripts/logits-proof.py LLAMA_SERVER [--engine PROGRAM] [--quant FORMAT] [SHAPE ...]

For each shape `engine synth` writes a model; both programs get the same prompts, and as long as their greedy tokens agree,
each step's log-probabilities of the whole vocabulary are compared: as vectors around their mean, which are the logits
around theirs. Exits with 1 where the cosine of any two is 0.9999 or less, or where the first tokens of a prompt part.
"""
import argparse
import math
import pathlib
import subprocess
import sys
import tempfile

from llama_server import LlamaServer, complete

SHAPES = ["tiny", "tiny-phi3", "tiny-llama3", "tiny-qwen2", "tiny-qwen3", "tiny-qwen3moe", "tiny-gemma", "tiny-gemma2",
          "tiny-gemma3", "tiny-smollm3", "tiny-granite"]
VOCABULARY = 512
COSINE_MIN = 0.9999
# Bytes of the prompts: about one token for each two. The longest passes every window and a chunk of attention.
PROMPT_BYTES = [1, 20, 150, 500, 900]
TOKENS = 8
# Longer than phi3's short factors are for.
CONTEXT = 1024
TEXT = pathlib.Path("engine/tests/data/tokenizer-lines.txt")


def centred(*tops):
    """The log-probabilities of the tokens that all sides give one for, around their mean."""
    tables = [{i: p for i, p in top if p is not None} for top in tops]
    ids = sorted(set.intersection(*(set(table) for table in tables)))
    assert len(ids) > 0.99 * VOCABULARY, f"only {len(ids)} of {VOCABULARY} tokens have a probability"
    means = [sum(table[i] for i in ids) / len(ids) for table in tables]
    return [[table[i] - mean for i in ids] for table, mean in zip(tables, means)]


def cosine(a, b):
    product = sum(x * y for x, y in zip(a, b))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def compare(args, shape, folder, text):
    """The smallest cosine, the largest difference and the number of steps compared."""
    model = folder / f"{shape}.gguf"
    subprocess.run([args.engine, "synth", "--shape", shape, "--quant", args.quant, "-o", model], check=True,
                   capture_output=True)
    worst, apart, steps = 1.0, 0.0, 0
    prompt = folder / "prompt.txt"
    with LlamaServer(args.server, model, CONTEXT) as server:
        for size in PROMPT_BYTES:
            prompt.write_bytes(text[:size])
            ids, expect, expect_tops = server.complete(text[:size].decode(), TOKENS, VOCABULARY)
            found_ids, found, found_tops = complete(args.engine, model, prompt, TOKENS, VOCABULARY, ["-c", str(CONTEXT)])
            if ids != found_ids:
                sys.exit(f"{shape}: the tokens of a prompt of {size} bytes differ")
            for i, (a, b) in enumerate(zip(expect_tops, found_tops)):
                if a:
                    a, b = centred(a, b)
                    worst = min(worst, cosine(a, b))
                    apart = max(apart, max(abs(x - y) for x, y in zip(a, b)))
                    steps += 1
                if expect[i] != found[i]:
                    break
    return worst, apart, steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("shapes", nargs="*", default=SHAPES)
    parser.add_argument("--engine", default="target/release/engine")
    parser.add_argument("--quant", default="F32")
    args = parser.parse_args()
    text = TEXT.read_bytes().decode().encode("ascii", "replace")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for shape in args.shapes:
            worst, apart, steps = compare(args, shape, pathlib.Path(folder), text)
            good = worst > COSINE_MIN
            failed += not good
            print(f"{shape}: {steps} steps, cosine at least {worst:.7f}, logits differ by {apart:.5f} at most"
                  f"{'' if good else ': TOO FAR APART'}", flush=True)
    print(f"{len(args.shapes) - failed} of {len(args.shapes)} agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
