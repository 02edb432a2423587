//! The faults that a test found.

use crate::support::prometheus::Target;

/// All faults, so that one run shows all of them.
#[derive(Default)]
pub struct Report(Vec<String>);

impl Report {
    pub fn check(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(problem());
        }
    }

    pub fn conclude(self, targets: &[Target]) {
        assert!(self.0.is_empty(), "{}\nPrometheus's targets: {targets:#?}", self.0.join("\n"));
    }
}
