//! The binary `pontoon`; see the library of the same name.

use std::process::ExitCode;

/// Entries and requests are allocated on one thread and freed on another all the time, which the
/// system's allocator pays for with locks and consolidation (about a tenth of the CPU per write).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pontoon::run()
}
