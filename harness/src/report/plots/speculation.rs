//! What drafts came to: how often they are kept, and the cost of passes over several tokens.

use super::super::data::short_words;
use super::super::format::{count, number, percent};
use super::super::speculation::{Drafted, costs_by_target};
use super::rows::{self, Row};
use super::{Axes, Key, Mark, Plot, ROW_PX, Role, Shape, tick_whole};

/// One line a case: acceptance over the position in a draft, from 1; `None` where there are more cases than colours.
pub(in super::super) fn acceptance(all: &[Drafted<'_>]) -> anyhow::Result<Option<Plot>> {
    let drafted = || all.iter().filter(|one| !one.by_position.is_empty());
    if !(1..=usize::from(Role::SERIES)).contains(&drafted().count()) {
        return Ok(None);
    }
    let lines = drafted().map(|one| {
        let points = one.by_position.iter().enumerate();
        points.map(|(i, &a)| ((i + 1) as f64, a)).collect()
    });
    let names: Vec<&str> = drafted().map(|one| one.group.short.as_str()).collect();
    let axes = |last: f64| Axes {
        x_unit: "position in the draft".to_owned(),
        y_unit: "share kept of the tokens looked at".to_owned(),
        x_tick: tick_whole,
        height: 260,
        ..Axes::over(0.5..last + 0.5, 0.0..1.1)
    };
    draw(
        "Acceptance by position in a draft",
        &names,
        lines.collect(),
        axes,
        |x, y| format!("position {x}: {} kept", percent(y)),
    )
    .map(Some)
}

/// One line for each target: the time of a pass over the number of tokens; `None` where it is unknown.
pub(in super::super) fn pass_costs(all: &[Drafted<'_>]) -> anyhow::Result<Option<Plot>> {
    let costs = costs_by_target(all);
    let names: Vec<&str> = costs.iter().map(|one| one.name.as_str()).collect();
    let lines: Vec<Vec<(f64, f64)>> = costs
        .iter()
        .map(|one| one.points.iter().map(|&(n, v)| (n as f64, v)).collect())
        .collect();
    let most = lines.iter().flatten().map(|p| p.1).fold(0.0, f64::max);
    if most == 0.0 || lines.len() > usize::from(Role::SERIES) {
        return Ok(None);
    }
    let axes = |last: f64| Axes {
        x_unit: "tokens in the pass".to_owned(),
        y_unit: "time, in passes over one token".to_owned(),
        x_tick: tick_whole,
        height: 260,
        ..Axes::over(0.5..last + 0.5, 0.0..most * 1.1)
    };
    draw(
        "Cost of a pass over several tokens",
        &names,
        lines,
        axes,
        |x, y| format!("{x} tokens: {} passes of one", number(y)),
    )
    .map(Some)
}

/// One row for each way to draft, with a point for each prompt: the share kept of the tokens looked at, and from which share on
/// such drafts pay.
pub(in super::super) fn kept(all: &[Drafted<'_>]) -> anyhow::Result<Option<Plot>> {
    const PROMPT: &str = "prompt.text";
    let swept = |one: &Drafted<'_>| one.group.case.swept.get(PROMPT).map(shown);
    let mut prompts: Vec<Option<String>> = Vec::new();
    let mut rows: Vec<(String, Row, [u64; 2])> = Vec::new();
    let mut pays = false;
    for one in all {
        let (seen, kept) = one.looked_at();
        if seen == 0 {
            continue;
        }
        let prompt = swept(one);
        let at = prompts.iter().position(|p| *p == prompt);
        let at = at.unwrap_or_else(|| {
            prompts.push(prompt.clone());
            prompts.len() - 1
        });
        let name = match &prompt {
            Some(_) => short_words(one.group.case, |key| key != PROMPT),
            None => one.group.short.clone(),
        };
        let row = rows.iter().position(|(n, ..)| *n == name);
        let row = row.unwrap_or_else(|| {
            let row = Row {
                text: String::new(),
                line: None,
                specks: vec![],
                points: vec![],
            };
            rows.push((name.clone(), row, [0, 0]));
            rows.len() - 1
        });
        let share = kept as f64 / seen as f64;
        let title = format!("{name}: {} of {} kept", percent(share), count(seen));
        let point = (share, Shape::Dot, Role::Series(at as u8), false, title);
        let points = &mut rows[row].1.points;
        if let Some(from) = one.terms.and_then(|terms| terms.break_even()) {
            let title = format!("{name}: pays from {}", percent(from));
            pays = true;
            points.insert(0, (from, Shape::Square, Role::Muted, true, title));
        }
        points.push(point);
        rows[row].2[0] += seen;
        rows[row].2[1] += kept;
    }
    if rows.is_empty() || prompts.len() > usize::from(Role::SERIES) {
        return Ok(None);
    }
    let rows = rows.into_iter().map(|(name, row, [seen, kept])| {
        let share = kept as f64 / seen as f64;
        Row {
            text: format!("{name}: {} of {} kept", percent(share), count(seen)),
            line: (prompts.len() > 1).then_some(share),
            ..row
        }
    });
    let axis = (0.0..1.02, "share kept of the drafted tokens looked at");
    let mut plot = rows::draw(
        "How often drafted tokens are kept",
        axis,
        None,
        rows.collect(),
    )?;
    let names = prompts.iter().map(|p| p.as_deref().unwrap_or("the prompt"));
    plot.legend = Key::series(names);
    if pays {
        plot.legend.push(Key {
            role: Role::Muted,
            shape: Shape::Square,
            hollow: true,
            name: "pays from".to_owned(),
        });
    }
    Ok(Some(plot))
}

/// One bar a case: the time of a token in passes over one, by what it went into; `None` where that is unknown.
pub(in super::super) fn times(all: &[Drafted<'_>]) -> anyhow::Result<Option<Plot>> {
    const PARTS: [&str; 3] = ["verifying", "drafting", "rolling back"];
    let known = all.iter().filter_map(|one| Some((one, one.token_times()?)));
    let known: Vec<_> = known.collect();
    if known.is_empty() {
        return Ok(None);
    }
    let lowest = -(known.len() as f64) + 0.4;
    let mut marks = Vec::new();
    let mut most = 1.0_f64;
    for (i, (one, parts)) in known.iter().enumerate() {
        let y = -(i as f64);
        let mut x = 0.0;
        for (part, (name, time)) in PARTS.iter().zip(parts).enumerate() {
            if *time > 0.0 {
                marks.push(Mark::Bar {
                    x: x..x + time,
                    y: y - 0.36..y + 0.12,
                    role: Role::Series(part as u8),
                    label: format!("{name} {}", number(*time)),
                    title: format!("{}, {name}: {}", one.group.short, number(*time)),
                });
            }
            x += time;
        }
        most = most.max(x);
        marks.push(Mark::Label {
            x: 0.0,
            y: y + 0.12,
            text: format!("{}: {} passes a token", one.group.short, number(x)),
            below: false,
        });
    }
    marks.push(Mark::Line {
        points: vec![(1.0, lowest), (1.0, 0.6)],
        role: Role::Muted,
        width: 2,
    });
    let axes = Axes {
        x_unit: "time of a token, in passes over one".to_owned(),
        y_ticks: false,
        height: ROW_PX * known.len() as u32 + 70,
        ..Axes::over(0.0..most * 1.06, lowest..0.6)
    };
    let mut plot = Plot::draw("What the time of a token goes into", &axes, &marks)?;
    plot.legend = Key::series(PARTS.into_iter());
    Ok(Some(plot))
}

/// The beginning of a prompt.
fn shown(prompt: &serde_json::Value) -> String {
    let text = prompt.as_str().unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().take(4).collect();
    format!("{} …", words.join(" "))
}

/// One line with dots for each of `names`.
pub(super) fn draw(
    label: &str,
    names: &[&str],
    lines: Vec<Vec<(f64, f64)>>,
    axes: impl Fn(f64) -> Axes,
    say: impl Fn(f64, f64) -> String,
) -> anyhow::Result<Plot> {
    let last = lines.iter().flatten().map(|p| p.0).fold(1.0, f64::max);
    let mut marks = Vec::new();
    for (i, (line, name)) in lines.into_iter().zip(names).enumerate() {
        let role = Role::Series(i as u8);
        let points = line.iter().map(|&(x, y)| Mark::Point {
            x,
            y,
            shape: Shape::Dot,
            role,
            hollow: false,
            title: format!("{name}, {}", say(x, y)),
        });
        let points: Vec<Mark> = points.collect();
        marks.push(Mark::Line {
            points: line,
            role,
            width: 2,
        });
        marks.extend(points);
    }
    let mut plot = Plot::draw(label, &axes(last), &marks)?;
    plot.legend = Key::series(names.iter().copied());
    Ok(plot)
}
