//! A session lives no longer than the certificate that it began with: whoever lost its authority's trust has it for a
//! certificate's lifetime at most. Both sides begin anew with fresh certificates, where they stopped.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::SessionError;
use crate::transport::{Connection, certificate};

/// The clock may jump: it is looked at this often.
const LOOK: Duration = Duration::from_secs(60);

/// Returns when the certificate of the other side has expired by the clock here; never if it has none.
pub(crate) async fn expired(connection: &Connection) -> SessionError {
    let Some(certificate) = certificate(connection) else { return std::future::pending().await };
    let until = UNIX_EPOCH + Duration::from_secs(certificate.not_after.try_into().unwrap_or(0));
    while let Ok(left) = until.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.min(LOOK)).await;
    }
    SessionError::Expired(certificate.id)
}
