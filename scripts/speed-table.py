#!/usr/bin/env python3
"""The table of speeds against llama.cpp: measures every scenario of scenarios/speed and prints one row for each, in markdown.

Usage: scripts/speed-table.py [--harness PROGRAM] [--rounds N] [--results-dir DIR] [--collect] [SCENARIO...]

Runs `harness compare --llama-cpp SCENARIO` for one scenario after the other and reads what it wrote. A scenario that names its
reference itself (`[[reference]]`: decoding at depth, where llama.cpp's other variants would take hours) is compared with that
one alone. With --collect nothing is measured: each row comes from the scenario's last run in the folder of results. A row is
the phase that the file's name begins with (decode, prefill, depth: decode), against the variant of llama.cpp that came out
best, with the interval that `harness compare` gives and the share of the machine's peak, taken in the same rounds.
"""
import argparse
import glob
import json
import os
import pathlib
import subprocess
import sys
import tomllib

HEADER = """| work | engine tok/s | llama.cpp tok/s | ratio | interval | rounds | of the peak | verdict | run |
|---|---:|---:|---:|---:|---:|---:|---|---|"""


def newest(results, name):
    """The last run of a scenario that holds a comparison."""
    runs = glob.glob(f"{results}/{glob.escape(name)}-[0-9]*/comparison.json")
    return pathlib.Path(max(runs, key=os.path.getmtime)).parent if runs else None


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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("scenarios", nargs="*", type=pathlib.Path)
    parser.add_argument("--harness", default="target/release/harness")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--collect", action="store_true")
    args = parser.parse_args()
    speed = pathlib.Path(__file__).parent.parent / "scenarios" / "speed"
    failed = 0
    print(HEADER)
    for scenario in args.scenarios or sorted(speed.glob("*.toml")):
        before = None
        if not args.collect:
            before = newest(args.results_dir, scenario.stem)
            references = [] if "reference" in tomllib.loads(scenario.read_text()) else ["--llama-cpp"]
            command = [args.harness, "compare", *references, "--wait", "--rounds", str(args.rounds),
                       "--results-dir", args.results_dir, str(scenario)]
            code = subprocess.run(command, stdout=sys.stderr).returncode
            if code:
                print(f"{scenario}: exit code {code}", file=sys.stderr)
                failed = 1
        run = newest(args.results_dir, scenario.stem)
        run = None if run == before else run
        print(row(run) if run else f"| {scenario.stem} | | | not measured | | | | | |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
