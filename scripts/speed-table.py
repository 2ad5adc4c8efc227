#!/usr/bin/env python3
"""The table of speeds: every scenario of scenarios/speed against llama.cpp, then threads, passes of several tokens, loading, memory.

Usage: scripts/speed-table.py [--harness PROGRAM] [--engine PROGRAM] [--rounds N] [--pairs N] [--results-dir DIR] [--big MODEL]
           [--collect] [SCENARIO|PART...]

Runs `harness compare --llama-cpp SCENARIO` for one scenario after the other, in as many rounds as it says, and reads what it
wrote. A scenario that names its reference itself (`[[reference]]`: decoding at depth, where llama.cpp's other variants would
take hours) is compared with that one alone. With --collect nothing is measured: each row comes from the scenario's last run in
the folder of results. A row is the phase that the file's name begins with (decode, prefill, depth: decode), against the
variant of llama.cpp that came out best, with the interval that `harness compare` gives and the share of the machine's peak,
taken in the same rounds.

Three parts follow, which --collect leaves out: `threads`, two of them over one beside the probe's own scaling
(scenarios/threads-phi-4-mini.toml); `passes`, `engine passes` on the model of decode-phi-4-mini-q4_0; `loading`,
scripts/load-proof.py with weights kept and anew on the model of scenarios/phi-4-shape.toml (8.25 GB, written once into the
cache of models), or on --big; the weights kept take as much in the folder of results while it runs. Without a SCENARIO or PART everything is measured, which takes two hours on two cores.
"""
import argparse
import collections
import glob
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import tomllib

from interval import estimate, pairs

HEADER = """| work | engine tok/s | llama.cpp tok/s | ratio | interval | rounds | of the peak | verdict | run |
|---|---:|---:|---:|---:|---:|---:|---|---|"""
HERE = pathlib.Path(__file__).parent
SCENARIOS = HERE.parent / "scenarios"
# Runs of `engine passes`, after each other.
PASSES_RUNS = 3


def newest(results, name, holds):
    """The last run of a scenario that holds a file; not one with another model than the scenario's."""
    runs = [pathlib.Path(run).parent for run in glob.glob(f"{results}/{glob.escape(name)}-[0-9]*/{holds}")]
    overrides = lambda run: json.loads((run / "manifest.json").read_text())["scenario"]["overrides"]
    runs = [run for run in runs if not any(key.startswith("model.") for key in overrides(run))]
    return max(runs, key=lambda run: os.path.getmtime(run / holds), default=None)


def row(run):
    """One line of the table."""
    comparison = json.loads((run / "comparison.json").read_text())
    scenario = json.loads((run / "manifest.json").read_text())["scenario"]
    wanted = "prefill" if run.name.startswith("prefill") else "decode"
    phase = next(p for p in comparison["cases"][0]["phases"] if p["rate"] == wanted)
    engine, judged = phase["subject"], phase["judged"]
    if not judged:
        return f"| {scenario['description']} | | | not compared | | | | | {run.name} |"
    best = phase["others"][phase["best"]]
    change = judged["change"]
    interval = change["interval"]
    share = lambda row: "unknown" if row["of_peak_pct"] is None else f"{row['of_peak_pct']:.0f} %"
    cells = [
        scenario["description"],
        f"{engine['median']:.1f}",
        f"{best['median']:.1f} ({best['title'].partition('(')[2].rstrip(')')})",
        f"{change['ratio']:.2f}",
        f"{interval['low']:.2f} to {interval['high']:.2f} ({interval['confidence'] * 100:.0f} %)" if interval else "unknown",
        str(change["rounds"]),
        f"{share(engine)} / {share(best)}",
        judged["verdict"],
        run.name,
    ]
    return "| " + " | ".join(cells) + " |"


def measure(args, scenario):
    """Runs one comparison; whether it ended well."""
    text = tomllib.loads(scenario.read_text())
    references = [] if "reference" in text else ["--llama-cpp"]
    rounds = str(args.rounds or text["run"]["rounds"])
    command = [args.harness, "compare", *references, "--wait", "--rounds", rounds, "--results-dir", args.results_dir, str(scenario)]
    code = subprocess.run(command, stdout=sys.stderr).returncode
    if code:
        print(f"{scenario}: exit code {code}", file=sys.stderr)
    return code == 0


def run_alone(args, name, *more):
    """The folder of a run of one of the scenarios, which is run now."""
    command = [args.harness, "run", "--wait", "--results-dir", args.results_dir, *more, str(SCENARIOS / f"{name}.toml")]
    subprocess.run(command, stdout=sys.stderr, check=True)
    return newest(args.results_dir, name, "samples.jsonl")


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def threads(args):
    """What a second thread brings, and what it brings the probe of the same rounds."""
    run = run_alone(args, "threads-phi-4-mini")
    rates, peaks = collections.defaultdict(dict), collections.defaultdict(dict)
    for sample in lines(run / "samples.jsonl"):
        if sample["phase"] == "measured":
            arrivals = sample["arrival_ns"]
            rates[sample["swept"]["engine.threads"]][sample["round"]] = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) * 1e9
    for probe in lines(run / "probes.jsonl"):
        if probe["phase"] == "measured":
            read = next(r["median"] for r in probe["readings"] if r["what"] == "read")
            peaks[probe["engine"]["threads"]][probe["round"]] = read
    rounds = sorted(set.intersection(*(set(x[n]) for x in (rates, peaks) for n in (1, 2))))
    decode = [math.log(rates[2][r] / rates[1][r]) for r in rounds]
    probe = [math.log(peaks[2][r] / peaks[1][r]) for r in rounds]
    middle = lambda x, n: statistics.median(x[n].values())
    print("\n| | 1 thread | 2 threads | 2 over 1 | interval, at least 95 % |\n|---|---:|---:|---:|---:|")
    show = lambda logs: "{:.3f} | {:.3f} to {:.3f}".format(*estimate(logs))
    print(f"| decode, tok/s ({len(rounds)} rounds) | {middle(rates, 1):.1f} | {middle(rates, 2):.1f} | {show(decode)} |")
    print(f"| read bandwidth of the same rounds, GB/s | {middle(peaks, 1):.1f} | {middle(peaks, 2):.1f} | {show(probe)} |")
    print(f"| decode's scaling over the probe's | | | {show([d - p for d, p in zip(decode, probe)])} |", flush=True)


def passes(args):
    """What passes of several tokens take."""
    run = newest(args.results_dir, "decode-phi-4-mini-q4_0", "manifest.json")
    if run is None:
        return print("\nengine passes: no run of decode-phi-4-mini-q4_0, whose model it takes")
    model = json.loads((run / "manifest.json").read_text())["models"][0]["path"]
    for i in range(PASSES_RUNS):
        table = subprocess.run([args.engine, "passes", "-m", model], stdout=subprocess.PIPE, text=True, check=True).stdout
        print(f"\nengine passes, {i + 1} of {PASSES_RUNS}:\n\n{table.rstrip()}", flush=True)


def loading(args):
    """Start to first token, and memory."""
    model = args.big
    if model is None:
        once = ["--set", "run.rounds=1", "--set", "run.warmup=0", "--set", "run.n_gen=2"]
        run = run_alone(args, "phi-4-shape", *once)
        model = json.loads((run / "manifest.json").read_text())["models"][0]["path"]
    status = subprocess.run([args.harness, "reference", "status"], stdout=subprocess.PIPE, text=True, check=True).stdout
    llama = next(line for line in status.splitlines() if line.startswith("  in ")).removeprefix("  in ").rpartition(" (")[0]
    with tempfile.TemporaryDirectory(dir=args.results_dir) as kept:
        command = [sys.executable, str(HERE / "load-proof.py"), str(model), f"{llama}/llama-completion", "--engine", args.engine,
                   "--packed-cache", kept, "--pairs", str(args.pairs)]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    print(f"\nStart to first token, {pathlib.Path(model).name}:\n\n" + "".join(f"- {line}\n" for line in told.splitlines()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wanted", nargs="*", metavar="SCENARIO|PART")
    parser.add_argument("--harness", default="target/release/harness")
    parser.add_argument("--engine", default="target/release/engine")
    parser.add_argument("--rounds", type=int, help="instead of what each scenario says")
    parser.add_argument("--pairs", type=pairs, default=6, help="of starts, for loading")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--big", type=pathlib.Path, help="model for loading")
    parser.add_argument("--collect", action="store_true")
    args = parser.parse_args()
    good = True
    parts = {part.__name__: part for part in (threads, passes, loading)}
    wanted = args.wanted or [*sorted((SCENARIOS / "speed").glob("*.toml")), *parts]
    for name in wanted:
        if name not in parts and not pathlib.Path(name).is_file():
            parser.error(f'"{name}" is neither a scenario file nor one of {", ".join(parts)}')
    print(HEADER)
    for scenario in (pathlib.Path(name) for name in wanted if name not in parts):
        before = None
        if not args.collect:
            before = newest(args.results_dir, scenario.stem, "comparison.json")
            good &= measure(args, scenario)
        run = newest(args.results_dir, scenario.stem, "comparison.json")
        run = None if run == before else run
        print(row(run) if run else f"| {scenario.stem} | | | not measured | | | | | |", flush=True)
    for name in (name for name in wanted if name in parts and not args.collect):
        try:
            parts[name](args)
        except (subprocess.CalledProcessError, StopIteration) as error:
            print(f"\n{name}: not measured: {error}", flush=True)
            good = False
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
