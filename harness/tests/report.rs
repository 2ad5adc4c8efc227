//! Reports of seeded fake runs. The folders stay in cargo's temporary folder, where a browser can open them.

mod fake;

use engine::probe::{Reading, What};
use fake::{FakeRun, HOSTILE};
use harness::probe::{Answer, Configuration, Stored};
use harness::record::{Phase, SCHEMA_VERSION};
use std::fs;
use std::path::PathBuf;

/// Writes the run and its reports; gives the folder and both texts.
fn report(name: &str, run: &FakeRun) -> (PathBuf, String, String) {
    // A folder of results for each: a report looks at the runs beside its own.
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join("reports")
        .join(name)
        .join(name);
    run.write(&dir);
    let paths = harness::report::write(&dir).expect("a report");
    let read = |path| fs::read_to_string(path).expect("readable");
    (dir, read(paths.html), read(paths.markdown))
}

/// What holds for every page: whole, self-contained, and hostile text is text.
fn check_page(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    for forbidden in [
        "http:",
        "https:",
        "//cdn",
        "@import",
        "url(",
        "<img",
        "alert(1)</script>",
        "fetch(",
        "NaN",
        "inf ",
    ] {
        assert!(!page.contains(forbidden), "\"{forbidden}\" in the page");
    }
    for open in ["section", "table", "details", "figure", "svg"] {
        let count = |text: &str| page.matches(text).count();
        let opened = count(&format!("<{open} ")) + count(&format!("<{open}>"));
        assert_eq!(opened, count(&format!("</{open}>")), "{open}");
    }
}

#[test]
fn one_case_has_everything() {
    let (_, page, markdown) = report("strict", &FakeRun::strict());
    check_page(&page);
    for text in [
        "decodes ",
        "tokens a second on 2 threads",
        "94 % interval, N\u{a0}=\u{a0}5",
        "warm-up 1",
        "round 3, replaced",
        "steal 214 ms, 611 involuntary switches",
        "p99",
        "gate_up",
        "outside",
        "achieved GB/s",
        "MiB",
        "llama-completion -m SmolLM2",
        "generates from an empty context",
        "--set 'prompt.text",
        "Some CPU 9000",
        "SHA-256 of the ids",
        "in all 5 repetitions",
        "warm-up, does not count",
        "disturbed, replaced by a re-run",
        "Only repetitions that do not count were disturbed.",
        "1 disturbed repetition, one by one",
        "stacks",
        "data-label=\"median\" data-unit=\"tok/s\"",
    ] {
        assert!(page.contains(text), "\"{text}\" is missing");
    }
    for text in ["counts, though disturbed", "Point at a mark"] {
        let shown = page.split("<script>").next().expect("a page");
        assert!(!shown.contains(text), "\"{text}\" is said without need");
    }
    assert!(
        page.contains("&lt;script&gt;alert(1)"),
        "the output text is shown, escaped"
    );
    assert!(markdown.contains("| decode rate | 13"), "{markdown}");
    assert!(!markdown.contains("<script>"));
    assert!(markdown.contains(
        "cargo run --release -- run scenarios/strict.toml --set 'prompt.text=It'\\''s a test'"
    ));
}

#[test]
fn a_matrix_compares_its_cases() {
    let (_, page, markdown) = report("matrix", &FakeRun::matrix());
    check_page(&page);
    for text in [
        "Over 7 cases the decode rate goes from",
        "Over <code>engine.threads</code>",
        "engine.ctx=4096",
        "7 repetitions gave no result",
        "timeout",
        "killed",
        "41 major faults",
        "governor: powersave",
        "1 of 41 repetitions that count were disturbed: 1 by major faults.",
        "counts, though disturbed",
        "41 of 48 planned repetitions of the engine count",
        "ctx=512: the knee is at 4 threads",
        "cpupower",
        "Beside the first case",
        "Rates over those of threads=1 ctx=512, paired by round, the largest difference first",
        "How many times as fast as threads=1 ctx=512 each case decodes",
        "times as fast as the first case",
    ] {
        assert!(page.contains(text), "\"{text}\" is missing");
    }
    let row = markdown
        .lines()
        .find(|l| l.starts_with("| threads=8 ctx=4096 |"))
        .expect("a row");
    assert!(
        row.contains("| – |") && row.ends_with("| 6 |"),
        "a case that failed has a row with no numbers: {row}"
    );
}

#[test]
fn a_comparison_shows_its_verdict_and_every_round() {
    let (_, page, markdown) = report("comparison", &FakeRun::comparison());
    check_page(&page);
    for text in [
        "class=\"badge good\">Decode: <span>the engine is faster</span>",
        "the decode rate of other b1 (repack on)",
        "with 96 % confidence",
        "Faster in 12 of 12 rounds measured side by side. Against itself the engine shows up to",
        "The engine reaches 63 % of the read bandwidth",
        "what the engine shows against itself: up to",
        "other b1 (repack off), decode: ",
        ">other b1, decode: 57 %<",
        ">engine, decode: 63 %<",
        "round 5: 1.0",
        ", disturbed",
        "the engine over itself",
        "other b1 (repack on) (decides)",
        "this build has no flash attention",
        "64 random tokens",
        "What explains it",
        "Output check",
        "other-bench -p 64 -n &#39;it&#39;\\&#39;&#39;s 128&#39;",
        "compare scenarios/strict.toml",
        " GB/s</text>",
    ] {
        assert!(
            page.contains(text) || page.contains(&text.replace("&#39;", "'")),
            "\"{text}\" is missing"
        );
    }
    assert!(markdown.contains("other b1 (repack on) (decides)") && markdown.contains("differs"));
    assert!(
        !page.contains("planned repetitions"),
        "all turns were worked"
    );
}

#[test]
fn a_probe_has_its_page() {
    let reading = |bytes, median| Reading {
        what: What::Read,
        bytes,
        median,
        best: median,
        slices: 9,
        huge_bytes: None,
    };
    let stored = |readings| {
        let answer = Answer {
            threads: 2,
            cpus: vec![0, 1],
            isa: "avx2".to_owned(),
            readings,
        };
        let configuration = Configuration {
            huge_pages: true,
            answer,
        };
        Stored::new(FakeRun::strict().manifest.host, vec![configuration])
    };
    let sizes = (14..28).map(|power| reading(1 << power, f64::from(200 - 6 * power)));
    let page = harness::report::bandwidth_page(&stored(sizes.collect())).expect("a page");
    check_page(&page);
    for text in [
        "2 threads, huge pages: 80.00 GB/s over 1 MiB",
        "var(--series-1)",
        "data-sort=\"80\"",
        "table.sortable",
    ] {
        assert!(page.contains(text), "\"{text}\" is missing");
    }
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("reports/probe");
    fs::create_dir_all(&dir).expect("created");
    fs::write(dir.join("report.html"), &page).expect("written");
    let quick = harness::report::bandwidth_page(&stored(vec![reading(1 << 27, 30.0)]));
    assert!(quick.expect("a page").contains("A quick probe"));
}

#[test]
fn the_verdict_of_a_gate_is_on_the_page() {
    let run = FakeRun::strict();
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("reports/gated/gated");
    fs::remove_file(dir.join("gate.json")).ok();
    let (_, without, _) = report("gated", &run);
    assert!(!without.contains("Against the baseline"));
    let judged = harness::record::Run::read(&dir).expect("a run");
    let metrics: Vec<_> = harness::metric::ALL.iter().filter(|m| m.gated).collect();
    let rule = harness::verdict::Rule::default();
    let mut gate = harness::gate::gate(&judged, std::slice::from_ref(&judged), &metrics, &rule);
    gate.baseline = "kept <b>".to_owned();
    gate.store(&dir).expect("stored");
    let (_, page, _) = report("gated", &run);
    check_page(&page);
    for text in [
        "Against the baseline \"kept &lt;b&gt;\": <span>inconclusive: ",
        "href=\"#gate\"",
        ">decode rate, tok/s</th>",
        "rounds on the smaller side",
        "the baseline holds 1 run",
    ] {
        let text = text.replace('"', "&quot;");
        assert!(
            page.replace('"', "&quot;").contains(&text),
            "{text} is missing"
        );
    }
    let text = fs::read(dir.join("gate.json")).expect("readable");
    fs::write(dir.join("gate.json"), "{").expect("written");
    let (_, page, _) = report("gated", &run);
    fs::write(dir.join("gate.json"), text).expect("written");
    assert!(
        !page.contains("Against the baseline"),
        "a broken verdict is none"
    );
    // A browser looks at this one.
    harness::report::write(&dir).expect("a report");
}

#[test]
fn shares_of_the_ceiling_are_taken_by_round() {
    let (_, page, _) = report("ceiling", &FakeRun::strict());
    check_page(&page);
    for text in [
        "% of what this machine's memory gave in the same rounds",
        "% of the arithmetic peak",
        "Roofline: 2 measured phases",
        "int8 512.0 GOP/s",
        "stalls</span> among",
        "No stored probe of this machine",
    ] {
        assert!(page.contains(text), "\"{text}\" is missing");
    }
}

#[test]
fn runs_beside_a_run_are_its_history() {
    let results = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("reports/history");
    // What an earlier run of this test left would be history, too.
    let _ = fs::remove_dir_all(&results);
    let mut run = FakeRun::strict();
    for day in 10..22 {
        run.manifest.created_at = format!("2025-03-{day}T09:26:53Z");
        if day == 16 {
            for ns in run.samples.iter_mut().flat_map(|s| &mut s.arrival_ns) {
                *ns = *ns * 5 / 4;
            }
        }
        run.write(&results.join(format!("strict-{day}")));
    }
    let page_with = |texts: &[&str]| {
        let paths = harness::report::write(&results.join("strict-21")).expect("a report");
        let page = fs::read_to_string(paths.html).expect("readable");
        check_page(&page);
        for text in texts {
            assert!(page.contains(text), "\"{text}\" is missing");
        }
        page
    };
    let page = page_with(&[
        "decode rate of 12 runs in tok/s",
        "prefill rate of 12 runs in tok/s",
        "2025-03-10 09:26 UTC, 702fd6d0c: median 1",
        "-20.0 %",
    ]);
    assert!(!page.contains("With engine."));
    for day in 22..25 {
        run.manifest.created_at = format!("2025-03-{day}T09:26:53Z");
        run.manifest.cases[0].engine.batch = 64;
        run.write(&results.join(format!("strict-{day}")));
    }
    page_with(&[
        "decode rate of 12 runs in tok/s",
        "decode rate of 3 runs in tok/s",
        "With engine.batch=64.",
    ]);
}

#[test]
fn a_run_without_results_says_so() {
    let (_, page, markdown) = report("nothing", &FakeRun::nothing());
    check_page(&page);
    assert!(page.contains("Nothing was measured: 2 repetitions gave no result."));
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains(HOSTILE));
    assert!(markdown.contains("Nothing was measured") && !markdown.contains("<script>"));

    let mut empty = FakeRun::nothing();
    empty.failures.clear();
    let (_, page, _) = report("empty", &empty);
    check_page(&page);
    assert!(page.contains("the run ended before its first repetition"));
}

#[test]
fn unusual_samples_make_a_page() {
    type Change = (&'static str, fn(&mut FakeRun));
    let changes: [Change; 7] = [
        ("no tokens", |r| {
            r.samples.iter_mut().for_each(|s| s.arrival_ns.clear())
        }),
        ("one token", |r| {
            r.samples.iter_mut().for_each(|s| s.arrival_ns.truncate(1))
        }),
        ("two tokens at once", |r| {
            r.samples.iter_mut().for_each(|s| s.arrival_ns = vec![5, 5])
        }),
        ("no stages and no ledger", |r| {
            r.samples
                .iter_mut()
                .for_each(|s| (s.prefill, s.decode) = (None, None))
        }),
        ("stage clock off", |r| {
            r.samples.iter_mut().for_each(|s| {
                s.decode = s.decode.map(|mut d| {
                    d.stages = Default::default();
                    d
                })
            })
        }),
        ("one repetition", |r| r.samples.truncate(2)),
        ("warm-up alone", |r| {
            r.samples.retain(|s| s.phase == Phase::Warmup)
        }),
    ];
    for (name, change) in changes {
        let mut run = FakeRun::strict();
        change(&mut run);
        let (_, page, _) = report("unusual", &run);
        check_page(&page);
        assert!(page.contains("Tokenlab report"), "{name}");
    }
}

#[test]
fn differing_outputs_are_told() {
    let mut run = FakeRun::strict();
    run.samples[1].output_sha256 = "0".repeat(64);
    let (_, page, _) = report("differing", &run);
    assert!(
        page.contains("The repetitions of \"strict\" differ in their output.")
            || page.contains("&quot;strict&quot; differ")
    );
    assert!(!page.contains("The same </span>"));
}

#[test]
fn a_torn_last_line_is_forgiven_and_others_are_not() {
    let run = FakeRun::strict();
    let (dir, whole, _) = report("torn", &run);
    let journal = dir.join("samples.jsonl");
    let text = fs::read_to_string(&journal).expect("readable");
    fs::write(&journal, format!("{text}{{\"schema_version\":1,\"ca")).expect("written");
    harness::report::write(&dir).expect("a torn last line is left out");
    assert_eq!(
        fs::read_to_string(dir.join("report.html")).expect("readable"),
        whole
    );
    fs::write(&journal, format!("{{\"torn\n{text}")).expect("written");
    let error = format!("{:#}", harness::report::write(&dir).unwrap_err());
    assert!(error.contains("samples.jsonl\", line 1"), "{error}");
}

#[test]
fn folders_that_are_no_runs_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let error = |text: Option<&str>| {
        if let Some(text) = text {
            fs::write(dir.path().join("manifest.json"), text).expect("written");
        }
        format!("{:#}", harness::report::write(dir.path()).unwrap_err())
    };
    assert!(error(None).contains("is not a run folder"));
    for text in ["{", "{}", "{\"schema_version\": 99}"] {
        assert!(error(Some(text)).contains("manifest.json"), "{text}");
    }
    let version = format!("{{\"schema_version\": {SCHEMA_VERSION}}}");
    assert!(error(Some(&version)).contains("missing field"));
}

#[test]
fn formats_stand_by_quality_size_and_speed() {
    let (_, page, markdown) = report("formats", &FakeRun::formats());
    check_page(&page);
    for text in [
        "Quality beside size and speed",
        "2,040 predictions: &quot;tokenlab.md&quot; in at most 8 windows of 512 tokens",
        "held against the predictions of the same model in F32",
        "Over bytes a token",
        "Over speed",
        "On the lower edge",
        "Q8_0: KL divergence 0.004000 \u{b1} 0.0002000, perplexity 19.36",
        "100 MB",
        "Quality is unknown",
        "size and speed",
        "15 in Q4_K, 15 in Q5_K",
        "Q5_K 52 %, Q4_K 48 %",
    ] {
        assert!(page.contains(text), "\"{text}\" is missing");
    }
    assert!(
        markdown.contains("| quant=\"Q4\\_1\" | 0.005200 | 0.000260 | 0.046800 |"),
        "{markdown}"
    );
}

#[test]
fn drafts_are_told_with_what_they_cost_and_bring() {
    let (_, page, markdown) = report("drafting", &FakeRun::drafting());
    check_page(&page);
    for text in [
        // Verifying 20 passes of 1.5 and 20 of 1, and drafting 40 tokens of 0.25, over 80 tokens.
        "qcsd&quot;, verifying: 0.6250",
        "qcsd&quot;, drafting: 0.1250",
        "qcsd&quot;: 0.7500 passes a token",
        "qcsd&quot;: 100 % of 200 kept",
        "qcsd&quot;: pays from 62 %",
        "lookup&quot;: pays from 17 %",
        "qcsd&quot;, position 2: 100 % kept",
        "lookup&quot;, position 1: 0.0 % kept",
        "3 tokens: 1.500 passes of one",
        "Drafts changed no text: 2 cases wrote what the case without drafts did.",
    ] {
        assert!(page.contains(text), "\"{text}\" is missing");
    }
    // Half of the passes give three tokens in 0.5 + 1.5, the others one in one; measured 1.5 and 0.95.
    let row = |method: &str| {
        let row = markdown
            .lines()
            .find(|l| l.contains(method) && l.contains("0.2500"));
        row.unwrap_or_else(|| panic!("{markdown}")).to_owned()
    };
    let qcsd = row("qcsd");
    assert!(qcsd.contains("| 1.333 |"), "{qcsd}");
    let mut run = FakeRun::drafting();
    let lookups = run.samples.iter_mut().filter(|s| s.case_index == 2);
    lookups.for_each(|s| s.output_sha256 = "ee".repeat(32));
    let (_, page, markdown) = report("drafting-wrong", &run);
    for text in [page, markdown] {
        assert!(
            text.contains("ERROR of the engine: with drafts the text is another one: method="),
            "{text}"
        );
    }
    run.manifest
        .cases
        .iter_mut()
        .for_each(|c| c.temp = Some(0.8));
    let (_, _, markdown) = report("drafting-drawn", &run);
    let said = "Drafts changed no text of 1 case; of 1 that is unknown, as texts were drawn";
    assert!(markdown.contains(said), "{markdown}");
}

#[test]
fn what_is_left_out_is_held_against_the_same_model_densely() {
    let (_, page, markdown) = report("sparse", &FakeRun::sparse());
    check_page(&page);
    let rows = markdown.lines().filter(|line| line.starts_with('|'));
    let mut unmarked = rows.filter(|line| line.contains("teal") && !line.contains("(lossy)"));
    assert_eq!(unmarked.next(), None);
    let (_, sparsity) = markdown
        .split_once("Channels that took part")
        .expect("a table");
    for (quant, by_bytes, measured, quality) in [
        ("Q8\\_0", 2.0, 1.6, [21.0, 0.01]),
        ("Q4\\_0", 1.25, 1.2, [23.0, 0.03]),
    ] {
        let lossy = |line: &&str| line.contains(quant) && line.contains("(lossy)");
        let row = sparsity.lines().find(lossy).expect("a row");
        let cells: Vec<f64> = row
            .split('|')
            .filter_map(|c| c.trim().parse().ok())
            .collect();
        let near = |found: f64, expect: f64| (found / expect - 1.0).abs() < 0.05;
        // Perplexity here and densely, and the divergence, stand in the same row.
        let [perplexity, kld] = quality;
        assert!(
            matches!(cells[..], [.., p, d, k, b, m] if near(b, by_bytes) && near(m, measured)
                && near(p, perplexity) && near(d, perplexity - 1.0) && near(k, kld)),
            "{row}"
        );
        assert!(row.contains("95 %"), "{row}");
    }
    for site in ["qkv", "o", "gate_up", "down"] {
        let title = format!("at {site} below which shares of them lie, by layer");
        assert_eq!(page.matches(&title).count(), 1, "{title}");
    }
    assert!(page.contains("90 %, layer 11: below 1.08"), "{page}");
    let held = "14 matrices a second time, 1.5 MB; encoded anew: 14 from Q4_K to Q4_0; mapped";
    assert!(page.contains(held), "{held} is missing");
    let held = held.replace('_', "\\_");
    assert_eq!(markdown.matches(&held).count(), 2, "{markdown}");
}

#[test]
fn plots_are_written_as_files_that_stand_alone() {
    let (dir, ..) = report("plots", &FakeRun::matrix());
    let folder = dir.join("plots");
    let paths = harness::report::write_plots(&dir, &folder).expect("plots");
    let names = paths.iter().filter_map(|path| path.file_name()?.to_str());
    let ends = |what: &str| names.clone().filter(|name| name.ends_with(what)).count();
    assert_eq!(
        (ends("-rates.svg"), ends("-sweep.svg")),
        (1, 1),
        "{paths:?}"
    );
    for path in &paths {
        let svg = fs::read_to_string(path).expect("readable");
        assert!(svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"));
        assert!(
            !svg.contains("var(--"),
            "{}: a colour without a value",
            path.display()
        );
    }
}
