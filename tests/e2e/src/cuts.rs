//! Links between clusters of the playground that do not carry anything for a while.

use tombolo_playground::{Playground, layout::Layout};

/// Links that are cut until this is dropped.
pub struct Cuts(Playground, Vec<(&'static str, &'static str)>);

impl Cuts {
    /// Cuts these links, in both directions.
    pub fn new(links: impl IntoIterator<Item = (&'static str, &'static str)>) -> anyhow::Result<Self> {
        let mut cuts = Self(Playground::attach(&Layout::from_environment())?, Vec::new());
        for (a, b) in links {
            cuts.1.push((a, b));
            cuts.0.link_cut(a, b)?;
        }
        Ok(cuts)
    }
}

impl Drop for Cuts {
    fn drop(&mut self) {
        for (a, b) in &self.1 {
            let _ = self.0.link_restore(a, b);
        }
    }
}
