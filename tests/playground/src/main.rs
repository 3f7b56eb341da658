//! `playground`: real Kubernetes clusters on this machine.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if let Some(wrapper) = tombolo_playground::runc::called_as() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        return finish(tombolo_playground::runc::run(&wrapper, &arguments).map_err(Into::into));
    }
    finish(cli::run(cli::Arguments::parse()))
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "playground: {error:#}");
            ExitCode::FAILURE
        }
    }
}
