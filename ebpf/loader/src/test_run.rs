//! Programs on packets in memory: BPF_PROG_TEST_RUN.

use std::time::Duration;

use aya::{
    TestRun as _,
    programs::{Program, ProgramError, TestRunOptions},
};

use crate::Datapath;

/// Room for what a program adds in front of a packet.
const HEADROOM: usize = 64;

/// A program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum TestRunError {
    /// There is no such program, or it takes no packets.
    #[error("no program {0} takes packets")]
    Unknown(String),
    /// The kernel refuses.
    #[error("program {name}: {source}")]
    Kernel {
        /// The program.
        name: String,
        /// Why.
        source: ProgramError,
    },
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestRun {
    /// What the program returned (`enum tcx_action_base`).
    pub verdict: i32,
    /// The packet as the last run left it.
    pub packet: Vec<u8>,
    /// How long one run took, on average.
    pub duration: Duration,
}

impl Datapath {
    /// Runs a program of a device on a packet, as if the loopback device of the caller's network namespace had it.
    /// With `repeat` above 1 it runs again on what it has left itself.
    ///
    /// # Errors
    /// There is no such program, or the kernel refuses.
    pub fn test_run(&self, program: &str, packet: &[u8], repeat: u32) -> Result<TestRun, TestRunError> {
        let Some(Program::SchedClassifier(loaded)) = self.program(program) else {
            return Err(TestRunError::Unknown(program.to_owned()));
        };
        let mut out = vec![0; packet.len() + HEADROOM];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::default()
        };
        let result = loaded.test_run(options);
        let result = result.map_err(|source| TestRunError::Kernel { name: program.to_owned(), source })?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRun { verdict: result.return_value.cast_signed(), packet: out, duration: result.duration })
    }
}
