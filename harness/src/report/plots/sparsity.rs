//! What took part, layer by layer.

use super::super::format::percent;
use super::super::sparsity::Thinned;
use super::speculation::draw;
use super::{Axes, Plot, tick_whole};
use crate::record::by_layer;

/// One line a case: the share of the channels that took part over the layer, from 0.
pub(in super::super) fn active_by_layer(all: &[Thinned<'_>]) -> anyhow::Result<Plot> {
    let names: Vec<&str> = all.iter().map(|one| one.group.short.as_str()).collect();
    let line = |one: &Thinned<'_>| {
        let shares = by_layer(&one.telemetry).into_iter();
        shares.map(|(l, share)| (l as f64, share)).collect()
    };
    let axes = |last: f64| Axes {
        x_unit: "layer".to_owned(),
        y_unit: "share".to_owned(),
        x_tick: tick_whole,
        height: 260,
        ..Axes::over(-0.5..last + 0.5, 0.0..1.1)
    };
    draw(
        "Channels that take part, by layer",
        &names,
        all.iter().map(line).collect(),
        axes,
        |x, y| format!("layer {x}: {}", percent(y)),
    )
}
