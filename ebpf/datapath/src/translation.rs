//! How the ends of a packet differ from those that its client knows.

use tombolo_abi::Address;

/// The client's side of a translation: of a packet on its way to a backend what was done to it, of an answer what is to be
/// undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Translation {
    /// The frontend that the client has asked.
    pub frontend: Address,
    /// Number of the backend, 0 for none.
    pub backend: u32,
    /// The frontend's port.
    pub frontend_port: u16,
    /// The client's own port, where its end was given another one; else 0.
    pub client_port: u16,
    /// Whether there is a translation at all.
    pub exists: bool,
    /// Whether `FLOW` does not have it yet.
    pub is_new: bool,
}

impl Translation {
    /// None yet.
    #[inline(always)]
    pub const fn none() -> Self {
        Self { frontend: [0; 16], backend: 0, frontend_port: 0, client_port: 0, exists: false, is_new: false }
    }

    /// The client has asked this frontend.
    #[inline(always)]
    pub const fn begin(&mut self, frontend: &Address, port: u16) {
        self.frontend = *frontend;
        self.frontend_port = port;
        self.exists = true;
    }
}
