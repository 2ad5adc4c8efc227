//! What the machine says about itself.

use serde::{Deserialize, Serialize};

/// Facts about the machine; what could not be read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// CPU model name.
    pub cpu: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
}

impl HostFacts {
    /// Reads what this machine offers.
    pub fn read() -> HostFacts {
        HostFacts::default()
    }
}
