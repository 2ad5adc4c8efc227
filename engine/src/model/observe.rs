//! Who hears what matrices are multiplied with: the importance matrix and calibration.

use super::forward::Pass;
use super::weights::Model;
use crate::quantize::Observer;
use crate::sparsity::{Magnitudes, Site};

/// Steps of a layer whose inputs are heard, and the tensors that share them.
const STEPS: [(Site, &[&str]); 4] = [
    (Site::Qkv, &["attn_q", "attn_k", "attn_v", "attn_qkv"]),
    (Site::O, &["attn_output"]),
    (
        Site::GateUp,
        &["ffn_gate", "ffn_up", "ffn_gate_exps", "ffn_up_exps"],
    ),
    (Site::Down, &["ffn_down", "ffn_down_exps"]),
];

impl Pass<'_> {
    /// Has whoever observes hear the values `x` of a token at a site, on thread `thread`.
    pub(super) fn observe(&self, thread: usize, layer: usize, site: Site, x: &[f32]) {
        self.observe_expert(thread, layer, site, (0, 1), x);
        if let Some(magnitudes) = self.magnitudes {
            magnitudes.add(thread, layer, site, x, self.norms(layer, site));
        }
    }

    /// Has the observer hear the values `x` that an expert, one of so many, is multiplied with.
    pub(super) fn observe_expert(
        &self,
        thread: usize,
        layer: usize,
        site: Site,
        expert: (usize, usize),
        x: &[f32],
    ) {
        let step = STEPS.iter().position(|step| step.0 == site);
        if let (Some(observer), Some(step)) = (self.observer, step) {
            observer.add(thread, layer * STEPS.len() + step, expert, x);
        }
    }
}

impl Model {
    /// An observer of the steps of a pass, by the names of the tensors that share their inputs.
    pub(crate) fn observer(&self, threads: usize) -> Observer {
        let has = |name: &String| self.gguf().tensor(name).is_some();
        let step = |l: usize, parts: &[&str]| -> Vec<String> {
            let names = parts.iter().map(|part| format!("blk.{l}.{part}.weight"));
            names.filter(has).collect()
        };
        let names = (0..self.layers.len())
            .flat_map(|l| STEPS.map(|(_, parts)| step(l, parts)))
            .collect();
        Observer::new(names, threads)
    }

    /// Hears magnitudes at every site.
    pub(crate) fn magnitudes(&self, threads: usize) -> Magnitudes {
        Magnitudes::new(self.layers.len(), threads)
    }
}
