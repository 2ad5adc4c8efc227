//! Where the time of a token goes.

use super::super::data::TokenTime;
use super::super::format::{number, percent};
use super::{Axes, Mark, Plot, ROW_PX, Role, tick_whole};

/// Where the time goes: one bar per row, its stages as shares.
pub(in super::super) fn stages(rows: &[(String, TokenTime)]) -> anyhow::Result<Option<Plot>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let mut marks = Vec::new();
    for (i, (name, time)) in rows.iter().enumerate() {
        let row = -(i as f64);
        let total = time.total();
        let mut x = 0.0;
        let outside = (Role::Outside, "outside", time.outside);
        for (role, stage, ms) in time
            .stages
            .iter()
            .map(|(s, ms)| (Role::Stage(*s), s.name(), *ms))
            .chain([outside])
        {
            let share = 100.0 * ms / total;
            if share > 0.0 {
                marks.push(Mark::Bar {
                    x: x..x + share,
                    y: row - 0.36..row + 0.12,
                    role,
                    label: format!("{stage} {share:.0} %"),
                    title: format!("{stage}: {} ms, {}", number(ms), percent(share / 100.0)),
                });
            }
            x += share;
        }
        marks.push(Mark::Label {
            x: 0.0,
            y: row + 0.12,
            text: format!("{name}: {} ms/token", number(total)),
            below: false,
        });
    }
    let axes = Axes {
        x_unit: "% of the time".to_owned(),
        x_tick: tick_whole,
        y_ticks: false,
        height: ROW_PX * rows.len() as u32 + 70,
        ..Axes::over(0.0..100.0, -(rows.len() as f64) + 0.4..0.6)
    };
    Plot::draw("Share of each stage in the time of a token", &axes, &marks).map(Some)
}
