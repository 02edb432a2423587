//! What a test found wrong.

use crate::support::prometheus::Target;

/// All that was found wrong, so that one run shows it.
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
