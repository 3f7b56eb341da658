//! The CNI plugin: a thin client of the node agent.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use tombolo_cni::command::{self, Outcome};

fn main() -> ExitCode {
    let outcome = command::run(|key| env::var_os(key), io::stdin().lock());
    let (text, code) = match &outcome {
        Outcome::Printed(text) => (text.as_str(), ExitCode::SUCCESS),
        Outcome::Failed(text) => (text.as_str(), ExitCode::FAILURE),
        Outcome::About(text) => {
            // Nothing can be done about a closed stderr.
            let _ = writeln!(io::stderr(), "{text}");
            return ExitCode::SUCCESS;
        }
    };
    if text.is_empty() || writeln!(io::stdout(), "{text}").is_ok() { code } else { ExitCode::FAILURE }
}
