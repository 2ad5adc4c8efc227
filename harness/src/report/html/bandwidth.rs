//! The page of a probe: read bandwidth over the size of the buffer.

use super::super::ceiling as found;
use super::{ceiling, head, script};
use crate::probe::Stored;
use maud::{DOCTYPE, Markup, html};

/// The page, in one file that fetches nothing.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn bandwidth_page(stored: &Stored) -> anyhow::Result<String> {
    let sets = found::working_sets(stored, &[]);
    let body: Markup = match &sets {
        Some(sets) => ceiling::working_sets(sets, &stored.host)?,
        None => {
            html! { p { "A quick probe measures memory alone: " code { "harness probe" } " without " code { "--quick" } " measures every size." } }
        }
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            (head("What this machine gives"))
            body {
                header {
                    p.kind { "Tokenlab probe · " time datetime=(stored.created_at) { (stored.created_at) } }
                    h1 { "What this machine gives" }
                    p.summary { (stored.host.summary()) }
                }
                main {
                    section {
                        h2 { "Read bandwidth over the size of the buffer" }
                        p.quiet { "Medians, GB/s, all threads together; the size is that of all threads' parts." }
                        (body)
                    }
                }
                (script())
            }
        }
    };
    Ok(page.into_string())
}
