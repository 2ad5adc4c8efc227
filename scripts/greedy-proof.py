#!/usr/bin/env python3
"""Compares greedy completions of `engine run` with llama.cpp's `llama-server`, token for token.

Usage: scripts/greedy-proof.py MODEL LLAMA_SERVER [--engine PROGRAM] [--prompts FOLDER] [-n TOKENS] [-- ENGINE FLAGS]

Both get the same text and must make the same prompt tokens of it; an end of text is never chosen. Where the completions
part, the two likeliest tokens of both sides are shown with their log-probabilities: rounding can only turn a near-tie.
Exits with 1 if a prompt's tokens differ or a completion parts where neither side sees a near-tie.
"""
import argparse
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

# The largest difference between the two likeliest tokens that counts as a near-tie, in natural-log units.
NEAR_TIE = 0.5


def post(port, path, body):
    url = f"http://127.0.0.1:{port}{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def start_server(program, model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["-m", model, "--host", "127.0.0.1", "--port", str(port), "-np", "1", "-c", "2048", "-t", "2"]
    server = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(240):
        if server.poll() is not None:
            sys.exit(f"{program} ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return server, port
        except OSError:
            time.sleep(0.5)
    server.kill()
    sys.exit(f"{program} did not answer within two minutes")


def reference(port, text, tokens):
    ids = post(port, "/tokenize", {"content": text, "parse_special": True, "add_special": True})["tokens"]
    done = post(port, "/completion", {
        "prompt": ids, "n_predict": tokens, "temperature": 0, "top_k": 1, "ignore_eos": True,
        "return_tokens": True, "n_probs": 2, "cache_prompt": False, "seed": 1,
    })
    tops = [[(p["id"], p["logprob"]) for p in at["top_logprobs"]] for at in done["completion_probabilities"]]
    return ids, done["tokens"], tops


def ours(args, file):
    ids = subprocess.run([args.engine, "tokenize", "-m", args.model, "--ids", "-"], stdin=open(file, "rb"),
                         check=True, capture_output=True, text=True).stdout.split()
    command = [args.engine, "run", "-m", args.model, "-f", str(file), "-n", str(args.n), "--temp", "0",
               "--ignore-eos", "--top-logprobs", "2", *args.flags]
    lines = subprocess.run(command, check=True, capture_output=True).stderr.decode().splitlines()
    steps = [json.loads(line) for line in lines if line.startswith("{")]
    return [int(i) for i in ids], [s["id"] for s in steps], [s["top"] for s in steps]


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
    server, port = start_server(args.server, args.model)
    same = failed = 0
    files = sorted(pathlib.Path(args.prompts).glob("*.txt"))
    try:
        for file in files:
            text = file.read_bytes().decode()
            ids, expect, expect_top = reference(port, text, args.n)
            found_ids, found, found_top = ours(args, file)
            if ids != found_ids:
                failed += 1
                print(f"{file.name}: the prompt's tokens differ")
            elif expect == found and len(found) == args.n:
                same += 1
                print(f"{file.name}: {args.n} tokens identical")
            else:
                at = next(i for i, pair in enumerate(zip(expect, found)) if pair[0] != pair[1])
                near = min(gap(expect_top[at]), gap(found_top[at])) <= NEAR_TIE
                failed += not near
                verdict = "near-tie" if near else "NO NEAR-TIE"
                print(f"{file.name}: parts at token {at}, {verdict}: llama.cpp {show(expect_top[at])}; "
                      f"engine {show(found_top[at])}")
    finally:
        server.terminate()
        server.wait()
    print(f"{same} of {len(files)} identical, {len(files) - same - failed} part at near-ties, {failed} differ")
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main())
