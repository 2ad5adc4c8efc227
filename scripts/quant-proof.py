#!/usr/bin/env python3
"""Holds every weight format against llama.cpp: the same file in both, and both programs' rounding of the same weights.

Usage: scripts/quant-proof.py MODEL TEXT LLAMA_BIN [--engine PROGRAM] [--chunks N] [--formats A,B] [--imatrix FILE]
           [--plan FILE --bits 4.25,4.5] [--base FILE] [--speed ROUNDS [--harness PROGRAM]]

Of each format, MODEL is converted by `llama-quantize --allow-requantize --pure` and by `engine quantize`, the matrix of
the output as the engine does it in both. Of each file the perplexity in windows of 512 tokens is taken by both programs;
they must agree within half a percent. llama-perplexity gives the KL divergence of both files from MODEL as well: the
engine's rounding is to lose no more (told, and not a reason to fail). `-` stands for a format that llama-quantize does
not write for such a model. A format written `Q4_0+output` takes the output's matrix too. With --plan, rows `mixed@BITS`
follow: files of `engine quantize --to mixed@BITS`. MB are the bytes that a token reads of the weights, by `engine info`.
--base keeps the predictions of MODEL, half a gigabyte for 20 windows of SmolLM2, for another call with the same model, text
and number of windows. With --speed, no perplexity is taken: `harness compare` holds decoding of 64 tokens of each file of
llama-quantize, or else of the engine, against llama.cpp, weights repacked or not, whichever is faster; nothing else may run
meanwhile. Exits with 1 where perplexities differ or llama.cpp does not load a file.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

TOLERANCE = 0.005
# What llama-quantize calls a file of one format; by the format's name where it is not listed.
FILE_TYPES = {"Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S", "MXFP4": None}
FORMATS = ("F16,BF16,Q8_0,Q6_K,Q5_K,Q5_1,Q5_0,Q4_K,Q4_1,Q4_0,IQ4_NL,IQ4_XS,MXFP4,Q3_K,Q2_K,TQ2_0")
SCENARIO = """
[scenario]
name = "{name}"
description = "decoding of a file in {name}"
[model]
path = {file}
[prompt]
tokens = 32
[run]
n_gen = 64
[engine]
ctx = 128
"""
REFERENCE = """
[[reference]]
name = "{name}"
kind = "llama-bench"
dir = {dir}
repack = {repack}
flash_attn = "auto"
"""
# Formats that the output's matrix takes too.
WIDE = ("F32", "F16", "BF16", "Q8_0")


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


class Proof:
    def __init__(self, args, folder):
        self.args, self.base = args, args.base or folder / "base.kld"
        if not args.speed and not self.base.exists():
            self.reference(args.model, "--kl-divergence-base", self.base)

    def reference(self, model, *flags):
        return run(self.args.bin / "llama-perplexity", "-m", model, "-f", self.args.text, "-c", 512, "-b", 512,
                   "--chunks", self.args.chunks, "-t", 2, *flags)

    def measure(self, file):
        """Megabytes a token reads, perplexity in llama.cpp and in the engine, KL divergence in thousandths."""
        text = self.reference(file, "--kl-divergence-base", self.base, "--kl-divergence")
        ours = run(self.args.engine, "perplexity", "-m", file, "-f", self.args.text, "--chunks", self.args.chunks)
        read = found(r"weights .*\((\d+) bytes\)", run(self.args.engine, "info", file)) / 1e6
        return (read, found(r"Mean PPL\(Q\)\s*:\s*([\d.]+)", text), found(r"PPL = ([\d.]+)", ours),
                found(r"Mean\s+KLD:\s*(-?[\d.]+)", text) * 1e3)

    def speed(self, name, file, folder):
        """Decode rates of the engine and of the faster variant of llama.cpp, their ratio and its interval."""
        text = SCENARIO.format(name=name, file=json.dumps(str(file)))
        for variant, repack in [("repacked", "true"), ("as it is", "false")]:
            text += REFERENCE.format(name=f"llama.cpp ({variant})", dir=json.dumps(str(self.args.bin.absolute())), repack=repack)
        scenario, results = folder / "speed.toml", folder / f"results-{name}"
        scenario.write_text(text)
        run(self.args.harness, "compare", scenario, "--rounds", self.args.speed, "--results-dir", results)
        comparison = json.loads(next(results.glob("*/comparison.json")).read_text())
        phase = next(p for p in comparison["cases"][0]["phases"] if p["rate"] == "decode")
        best, change = phase["others"][phase["best"]], phase["judged"]["change"]
        interval = change["interval"]
        return (f"{name:10} {phase['subject']['median']:7.1f} {best['median']:7.1f} {change['ratio']:6.2f} "
                f"({interval['low']:.2f} to {interval['high']:.2f}, {100 * interval['confidence']:.0f} %)  {best['title']}")

    def quantised(self, name, folder):
        args, imatrix = self.args, ["--imatrix", self.args.imatrix] if self.args.imatrix else []
        theirs, ours = folder / f"{name}-theirs.gguf", folder / f"{name}-ours.gguf"
        mixed = "@" in name
        to, _, everywhere = name.partition("+")
        how = ["--plan", args.plan] if mixed else []
        how += ["--tensor-type", rf"^(token_embd|output)\.={to}"] if everywhere else []
        run(args.engine, "quantize", args.model, "-o", ours, "--to", to, *how, *imatrix)
        file_type = FILE_TYPES.get(name, name)
        if file_type is None or mixed or everywhere:
            return None, ours
        output = [] if name in WIDE else ["--token-embedding-type", "q8_0"]
        run(args.bin / "llama-quantize", "--allow-requantize", "--pure", *output, *imatrix, args.model, theirs, file_type, 2)
        return theirs, ours


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("--engine", default="target/release/engine")
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--imatrix", type=pathlib.Path)
    parser.add_argument("--plan", type=pathlib.Path)
    parser.add_argument("--bits", default="")
    parser.add_argument("--base", type=pathlib.Path)
    parser.add_argument("--speed", type=int, metavar="ROUNDS", default=0)
    parser.add_argument("--harness", default="target/release/harness")
    args = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        proof = Proof(args, folder)
        if args.speed:
            print(f"{args.model.name}, {args.speed} rounds\nformat      engine, llama.cpp in tok/s, ratio")
        else:
            print(f"{args.model.name}, {args.chunks} windows of 512")
            print("format      MB  file of llama-quantize: llama.cpp, engine, apart, KLD/1000 | of the engine: the same")
        mixed = [f"mixed@{bits}" for bits in args.bits.split(",") if bits]
        for name in [f for f in args.formats.split(",") if f] + mixed:
            if args.speed:
                theirs, ours = proof.quantised(name, folder)
                print(proof.speed(name, theirs or ours, folder), flush=True)
                for file in filter(None, (theirs, ours)):
                    file.unlink()
                continue
            cells = []
            for file in proof.quantised(name, folder):
                if file is None:
                    cells.append("-")
                    continue
                read, theirs, ours, kld = proof.measure(file)
                apart = ours / theirs - 1
                if abs(apart) > TOLERANCE:
                    failed.append(f"{name} ({file.name})")
                cells.append(f"{read:6.2f} {theirs:9.4f} {ours:9.4f} {100 * apart:+6.3f} % {kld:8.3f}")
                file.unlink()
            print(f"{name:10} {' | '.join(cells)}", flush=True)
    print(f"{len(failed)} apart by more than {100 * TOLERANCE} %{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
