//! A limited cgroup: what peers who stall make psystrike hold is bounded, and the kernel never kills it for that.

mod support;

use support::{cgroup::Cgroup, psystrike::Psystrike};

const MIB: u64 = 1 << 20;
const LIMIT_BYTES: u64 = 16 * MIB;

#[test]
fn a_program_in_a_cgroup_is_counted_and_killed_at_its_limit() {
    let Some(group) = Cgroup::with_memory(LIMIT_BYTES) else { return };
    let wrapper = group.wrapper();
    let psystrike = Psystrike::start_under(&wrapper.each_ref().map(String::as_str), &[]);
    assert_eq!(psystrike.get("/healthz").status(), 200);
    assert!(group.usage() > 0 && group.peak() >= group.usage(), "{group:?}");
    assert_eq!(group.kills(), 0);
}
