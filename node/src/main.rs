//! The binary `pontoon`; see the library of the same name.

use std::process::ExitCode;

/// Entries and requests are allocated on one thread and freed on another all the time, which the
/// system's allocator pays for with locks and consolidation (about a tenth of the CPU per write).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, and the kernel then clears 2 MiB at the first touch of each, in the middle of a
    // write. A kernel that refuses changes no result.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    pontoon::run()
}
