//! Quality beside size and speed: a point for each case, and which of them no other case beats in both.

use super::data::Group;
use crate::record::{Run, Sample};
use engine::quality::Figures;

/// A case whose quality is known.
pub(super) struct Point<'a> {
    pub group: &'a Group<'a>,
    /// The case in plots: the value of the swept key where there is only one.
    pub name: String,
    pub figures: &'a Figures,
    /// Bytes that a token reads.
    pub bytes: Option<f64>,
    /// Decode rate in tokens a second.
    pub rate: Option<f64>,
    /// No case with as few bytes diverges less.
    pub best_of_size: bool,
    /// No case as fast diverges less.
    pub best_of_speed: bool,
}

/// The cases whose quality is known.
pub(super) fn points<'a>(run: &'a Run, groups: &[&'a Group<'a>]) -> Vec<Point<'a>> {
    let known = groups.iter().filter_map(|group| {
        let figures = run.quality(group.case.index)?;
        let bytes = group.estimate(Sample::decode_bytes_per_token);
        Some(Point {
            group,
            name: name(group),
            figures,
            bytes: bytes.map(|e| e.median),
            rate: group.decode().map(|e| e.median),
            best_of_size: false,
            best_of_speed: false,
        })
    });
    let mut points: Vec<Point<'_>> = known.collect();
    let klds: Vec<f64> = points.iter().map(|p| p.figures.kld_mean).collect();
    let sizes: Vec<_> = points.iter().map(|p| p.bytes).collect();
    let times: Vec<_> = points.iter().map(|p| p.rate.map(|rate| -rate)).collect();
    for (i, point) in points.iter_mut().enumerate() {
        point.best_of_size = on_front(i, &sizes, &klds);
        point.best_of_speed = on_front(i, &times, &klds);
    }
    points
}

fn name(group: &Group<'_>) -> String {
    let mut swept = group.case.swept.values();
    match (swept.next(), swept.next()) {
        (Some(only), None) => only
            .as_str()
            .map_or_else(|| only.to_string(), str::to_owned),
        _ => group.short.clone(),
    }
}

/// Whether nothing costs no more and loses no more, one of both less; of what has no cost nothing is.
fn on_front(i: usize, costs: &[Option<f64>], losses: &[f64]) -> bool {
    let Some(cost) = costs[i] else { return false };
    let mut others = costs.iter().zip(losses);
    !others.any(|(other, &loss)| {
        other.is_some_and(|other| {
            other <= cost && loss <= losses[i] && (other < cost || loss < losses[i])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_nothing_beats_in_both() {
        let costs = [Some(1.0), Some(2.0), Some(2.0), Some(3.0), None, Some(1.0)];
        let losses = [0.5, 0.1, 0.2, 0.1, 0.0, 0.5];
        let front: Vec<usize> = (0..6).filter(|&i| on_front(i, &costs, &losses)).collect();
        assert_eq!(front, [0, 1, 5]);
    }
}
