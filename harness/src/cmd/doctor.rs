//! `harness doctor`: what this machine is, what on it will disturb a measurement, and what to do about each.

use crate::exit::Exit;
use crate::host::{Finding, HostFacts, Status};
use crate::runner;
use anstyle::{AnsiColor, Style};
use std::fmt::Write as _;
use std::io::Write as _;

/// Widest text, in columns.
const COLUMNS_MAX: usize = 100;

/// Says what this machine is and what will disturb a measurement.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Prints everything as JSON.
    #[arg(long)]
    json: bool,
    /// Ends with exit code 5 if anything will disturb a measurement.
    #[arg(long)]
    strict: bool,
}

/// Looks at the machine and prints the findings to stdout.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let facts = HostFacts::read();
    let text = match args.json {
        true => serde_json::to_string_pretty(&facts)? + "\n",
        false => {
            let columns = textwrap::termwidth().min(COLUMNS_MAX);
            render(&facts, columns) + &thresholds(columns)
        }
    };
    // Colours are stripped where stdout is no terminal, or NO_COLOR is set.
    anstream::stdout().write_all(text.as_bytes())?;
    Ok(match args.strict && facts.warnings().next().is_some() {
        true => Exit::Unfit,
        false => Exit::Ok,
    })
}

/// The findings as aligned, wrapped and coloured text: what needs attention in full, the rest in one line each.
fn render(facts: &HostFacts, columns: usize) -> String {
    let bold = Style::new().bold();
    let mut out = String::new();
    for line in textwrap::wrap(&facts.summary(), columns) {
        let _ = writeln!(out, "{bold}{line}{bold:#}");
    }
    let width = facts
        .findings
        .iter()
        .map(|f| f.topic.len())
        .max()
        .unwrap_or(0);
    for status in [Status::Warn, Status::Note, Status::Unknown, Status::Good] {
        let group: Vec<&Finding> = facts
            .findings
            .iter()
            .filter(|f| f.status == status)
            .collect();
        if !group.is_empty() {
            let _ = writeln!(out, "\n{bold}{}{bold:#}", heading(status));
        }
        for finding in group {
            render_finding(&mut out, finding, width, columns);
        }
    }
    let _ = writeln!(out, "\n{}", verdict(facts));
    out
}

fn heading(status: Status) -> &'static str {
    match status {
        Status::Warn => "Will disturb measurements",
        Status::Note => "Worth knowing",
        Status::Unknown => "Could not be seen",
        Status::Good => "Good",
    }
}

fn mark(status: Status) -> (char, Style) {
    let (mark, colour) = match status {
        Status::Good => ('✔', AnsiColor::Green),
        Status::Note => ('•', AnsiColor::Cyan),
        Status::Warn => ('!', AnsiColor::Yellow),
        Status::Unknown => ('?', AnsiColor::Magenta),
    };
    (mark, Style::new().fg_color(Some(colour.into())).bold())
}

/// One finding: mark, topic and what was found; below it, unless all is good, what it means and what to do.
fn render_finding(out: &mut String, finding: &Finding, width: usize, columns: usize) {
    let (mark, style) = mark(finding.status);
    let dim = Style::new().dimmed();
    let indent = " ".repeat(width + 6);
    let wrap = |text: &str| -> Vec<String> {
        let room = columns.saturating_sub(indent.len()).max(24);
        textwrap::wrap(text, room)
            .into_iter()
            .map(|l| l.into_owned())
            .collect()
    };
    for (i, line) in wrap(&finding.found).iter().enumerate() {
        let _ = match i {
            0 => writeln!(
                out,
                "  {style}{mark}{style:#} {:width$}  {line}",
                finding.topic
            ),
            _ => writeln!(out, "{indent}{line}"),
        };
    }
    if finding.status == Status::Good {
        return;
    }
    for line in wrap(&format!("{} ({})", finding.means, finding.source)) {
        let _ = writeln!(out, "{indent}{dim}{line}{dim:#}");
    }
    if let Some(advice) = &finding.advice {
        // Not wrapped: a command must be whole to be copied.
        let _ = writeln!(out, "{indent}{style}→{style:#} {advice}");
    }
}

/// When a repetition will be marked as disturbed.
fn thresholds(columns: usize) -> String {
    let mut out = "\nA repetition is marked as disturbed, kept and shown apart when\n".to_owned();
    let options = textwrap::Options::new(columns)
        .initial_indent("  - ")
        .subsequent_indent("    ");
    for rule in runner::thresholds() {
        let _ = writeln!(out, "{}", textwrap::fill(&rule, &options));
    }
    out
}

fn verdict(facts: &HostFacts) -> String {
    match facts.warnings().count() {
        0 => "Nothing found here will disturb a measurement.".to_owned(),
        1 => "One thing will disturb measurements; results stay comparable only side by side."
            .to_owned(),
        n => format!(
            "{n} things will disturb measurements; results stay comparable only side by side."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> HostFacts {
        let finding = |topic: &str, status, advice: Option<&str>| {
            Finding {
            topic: topic.to_owned(),
            status,
            found: format!("found {topic}"),
            source: "/proc/x".to_owned(),
            means: "it means that a sentence of some length has to be wrapped at the width of the terminal".to_owned(),
            advice: advice.map(str::to_owned),
        }
        };
        HostFacts {
            cpu: Some("Some CPU".to_owned()),
            cpus: 16,
            cores: 8,
            findings: vec![
                finding("swap", Status::Good, None),
                finding(
                    "governor",
                    Status::Warn,
                    Some("sudo cpupower frequency-set -g performance"),
                ),
                finding("smt", Status::Note, None),
            ],
            ..HostFacts::default()
        }
    }

    #[test]
    fn warnings_come_first_and_everything_is_aligned() {
        let text = anstream::adapter::strip_str(&render(&facts(), 60)).to_string();
        let expect = "\
Some CPU, 8 cores with 16 hardware threads

Will disturb measurements
  ! governor  found governor
              it means that a sentence of some length has to
              be wrapped at the width of the terminal
              (/proc/x)
              → sudo cpupower frequency-set -g performance

Worth knowing
  • smt       found smt
              it means that a sentence of some length has to
              be wrapped at the width of the terminal
              (/proc/x)

Good
  ✔ swap      found swap

One thing will disturb measurements; results stay comparable only side by side.
";
        assert_eq!(text, expect);
    }

    #[test]
    fn json_carries_every_finding() {
        let json = serde_json::to_value(facts()).expect("serializes");
        assert_eq!(json["findings"][1]["status"], "warn");
        assert_eq!(
            serde_json::from_value::<HostFacts>(json).expect("reads"),
            facts()
        );
    }
}
