//! The binary `pontoon`; see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    pontoon::run()
}
