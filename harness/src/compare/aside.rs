//! Variants of one program that need no more rounds, because another of its variants is clearly faster.

use super::{CaseResult, PhaseResult, compare, rounds};
use crate::record::{ComparisonPlan, ReferencePlan, Run};

/// Rounds in which another variant has to be faster, in every one of them.
const ROUNDS_MIN: usize = 3;
/// How much faster: a tenth.
const FASTER_MIN: f64 = 1.1;

/// Runners, with their case, that are left aside in the rounds to come: in each phase another variant of the same program
/// was faster by [`FASTER_MIN`] in every round so far, [`ROUNDS_MIN`] at least. The fastest of a phase is never among them.
pub fn left_aside(run: &Run) -> Vec<(u32, String)> {
    let (Some(plan), Some(comparison)) = (&run.manifest.comparison, compare(run)) else {
        return vec![];
    };
    let of = |case: &CaseResult| of_case(plan, case);
    comparison.cases.iter().flat_map(of).collect()
}

/// Those of a case.
pub(super) fn of_case(plan: &ComparisonPlan, case: &CaseResult) -> Vec<(u32, String)> {
    let here = plan.references.iter().filter(|r| r.case == case.case_index);
    let all: Vec<&ReferencePlan> = here.collect();
    let same = |a: &ReferencePlan, b: &ReferencePlan| {
        let program = |plan: &ReferencePlan| plan.commands.first().map(|c| c.argv.first().cloned());
        a.runner != b.runner && program(a) == program(b)
    };
    let aside = all.iter().filter(|one| {
        let others: Vec<&str> = all
            .iter()
            .filter(|b| same(one, b))
            .map(|b| &*b.runner)
            .collect();
        let all_beaten = case
            .phases
            .iter()
            .all(|phase| is_beaten(phase, &one.runner, &others));
        all_beaten && !case.phases.is_empty()
    });
    aside.map(|one| (one.case, one.runner.clone())).collect()
}

/// Whether one of the others was clearly faster in every round that both worked in.
fn is_beaten(phase: &PhaseResult, runner: &str, others: &[&str]) -> bool {
    let row = |runner: &str| phase.others.iter().find(|row| row.runner == runner);
    let Some(slow) = row(runner) else {
        return false;
    };
    others.iter().filter_map(|other| row(other)).any(|fast| {
        let logs: Vec<f64> = rounds(fast, slow).map(|(_, log)| log).collect();
        logs.len() >= ROUNDS_MIN && logs.iter().all(|log| *log > FASTER_MIN.ln())
    })
}
