#!/usr/bin/env python3
"""Holds the quality that `harness run` measures against llama-perplexity: the same files, text, windows and base.

Usage: scripts/quality-proof.py MODEL LLAMA_BIN [--text TEXT] [--formats A,B] [--engine PROGRAM] [--harness PROGRAM]

MODEL is written in F32, which is the base, and in each format by `engine quantize`. llama-perplexity keeps the base's predictions
on all windows of 512 tokens that the text fills and takes its figures of each file; a scenario with the same files does so by
the engine. Exits with 1 where perplexities are more than half a percent apart, mean divergences more than a tenth, or shares of
equal first choices more than one point. F32 itself is held against the perplexity alone: its divergence is rounding.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

SCENARIO = """
[scenario]
name = "quality-proof"
description = "files held against llama-perplexity"
[model]
path = "F32.gguf"
[prompt]
tokens = 4
[run]
rounds = 1
warmup = 0
probe = false
n_gen = 2
[quality]
corpus = {text}
base = "F32.gguf"
[matrix]
model.path = {files}
"""
# A figure of ours and what llama-perplexity calls it.
FIGURES = {
    "perplexity": r"Mean PPL\(Q\)\s*:\s*([\d.]+)",
    "kld_mean": r"Mean\s+KLD:\s*(-?[\d.]+)",
    "kld_p99": r"99\.0%\s+KLD:\s*(-?[\d.]+)",
    "top1_share": r"Same top p:\s*([\d.]+)",
}


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace")
    text = done.stdout + done.stderr
    if done.returncode != 0:
        sys.exit(f"{command[0]} ended with {done.returncode}: {text[-600:]}")
    return text


def found(pattern, text):
    match = re.search(pattern, text)
    if not match:
        sys.exit(f"\"{pattern}\" is not in: {text[-600:]}")
    return float(match.group(1))


def theirs(args, folder, name):
    base = ["--kl-divergence-base", folder / "base.kld"]
    reads = [args.bin / "llama-perplexity", "-m", folder / f"{name}.gguf", "-f", args.text, "-c", 512, "-b", 512, "-t", 2, *base]
    if name == "F32":
        return {"perplexity": found(r"Final estimate: PPL = ([\d.]+)", run(*reads))}
    text = run(*reads, "--kl-divergence")
    figures = {figure: found(pattern, text) for figure, pattern in FIGURES.items()}
    figures["top1_share"] /= 100
    return figures


def ours(args, folder, names):
    files = json.dumps([f"{name}.gguf" for name in names])
    scenario = folder / "quality-proof.toml"
    scenario.write_text(SCENARIO.format(text=json.dumps(str(args.text.resolve())), files=files))
    run(args.harness, "run", scenario, "--no-report", "--wait", "--results-dir", folder / "results", "--models-dir", folder / "models")
    [journal] = (folder / "results").glob("*/quality.jsonl")
    return [json.loads(line)["result"]["measured"] for line in journal.read_text().splitlines()]


def apart(name, a, b):
    """Whether figures of ours and theirs differ by more than rounding explains."""
    wrong = abs(a["perplexity"] / b["perplexity"] - 1) > 0.005
    if name != "F32":
        wrong |= abs(a["kld_mean"] / b["kld_mean"] - 1) > 0.1
        wrong |= abs(a["top1_share"] - b["top1_share"]) > 0.01
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, default=pathlib.Path("scenarios/corpus/tokenlab.md"))
    parser.add_argument("--formats", default="Q8_0,Q4_0")
    parser.add_argument("--engine", default="target/release/engine")
    parser.add_argument("--harness", default="target/release/harness")
    args = parser.parse_args()
    names = ["F32"] + args.formats.split(",")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in names:
            run(args.engine, "quantize", args.model, "-o", folder / f"{name}.gguf", "--to", name)
        references = [theirs(args, folder, name) for name in names]
        measured = ours(args, folder, names)
    print(f"{args.model.name}, {args.text.name}, {measured[0]['predictions']} predictions: ours / llama-perplexity")
    for name, a, b in zip(names, measured, references):
        cells = [f"{figure} {a[figure]:.6f} / {b[figure]:.6f}" for figure in b]
        print(f"{name:8} {', '.join(cells)}", flush=True)
        failed += [name] if apart(name, a, b) else []
    print(f"{len(failed)} apart{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
