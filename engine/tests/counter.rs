//! The example of a state machine of one's own, run.

#[path = "../examples/counter/main.rs"]
mod counter;

#[test]
fn a_service_counts_on_when_its_leader_is_gone() {
    counter::main().expect("it counts");
}
