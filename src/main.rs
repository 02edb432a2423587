//! The program: arguments, workers, exit status.
fn main() {}
