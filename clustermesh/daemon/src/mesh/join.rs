//! Joining the mesh of a token, and letting others join.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{io::join, time::timeout};
use tombolo_mesh_core::{
    membership::{Durable, JoinAnswer, JoinRequest, MemberId, MeshState},
    token::{Token, TokenError},
    trust::{Pin, Service},
};
use tombolo_mesh_net::{
    join::{self, JoinError},
    session::Close,
    tls::Expected,
    transport::Accepted,
};
use tracing::{info, warn};

use super::{Mesh, NotRunning, member::Switch, record};

/// How many may ask to join at a time; others wait.
pub(super) const DOORS: usize = 4;
/// How long a place is taken after a refusal: so many wrong secrets a second can be tried, and no more.
const PENALTY: Duration = Duration::from_secs(1);
/// How long whoever asks may take to begin, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the new member may take to learn the mesh from the others.
const CATCH_UP: Duration = Duration::from_secs(20);

/// Why a cluster did not join; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// This cluster cannot join now, or the mesh does not want it.
    #[error("{0}")]
    Refused(String),
    /// Trying again may help.
    #[error("{0}")]
    Unavailable(String),
}

impl JoinFailure {
    /// Whether trying again with the same token may help.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<NotRunning> for JoinFailure {
    fn from(error: NotRunning) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<JoinError> for JoinFailure {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Refused(why) => Self::Refused(why),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl Mesh {
    /// Checks a token without using it, and says what joining would do.
    ///
    /// # Errors
    /// Joining would fail, in the same words.
    pub async fn check(&self, text: &str) -> Result<String, JoinFailure> {
        let token = text.parse::<Token>()?;
        if let Some(already) = self.joined(&token)? {
            return Ok(already);
        }
        self.ask(&token, true).await?;
        Ok(format!("cluster {} would let this cluster into mesh {}", token.issuer, token.mesh))
    }

    /// Joins the mesh of the token; succeeds at once if this cluster is in it already. Gives a sentence for the user.
    ///
    /// # Errors
    /// It did not join.
    pub async fn join(&self, text: &str) -> Result<String, JoinFailure> {
        let token = text.parse::<Token>()?;
        let _one = self.0.changing.lock().await;
        if let Some(already) = self.joined(&token)? {
            return Ok(already);
        }
        self.ask(&token, true).await?;
        let (member, state) = self
            .ask(&token, false)
            .await?
            .ok_or_else(|| JoinFailure::Unavailable("the member has not decided: try again".to_owned()))?;
        self.check_admitted(&token, member, &state)?;
        info!(mesh = %state.mesh, %member, "admitted to the mesh");
        let durable = Box::new(Durable::joining(member, &state));
        self.switch(|reply| Switch::Become(durable, reply)).await.map_err(JoinFailure::Unavailable)?;
        let mut known = self.0.known.subscribe();
        let caught_up = known.wait_for(|known| known.as_ref().is_some_and(|k| k.caught_up));
        if !matches!(timeout(CATCH_UP, caught_up).await, Ok(Ok(_))) {
            let why = "admitted to the mesh, but no member has sent its state yet: can the members reach this cluster, \
                       or this cluster them, at UDP port";
            return Err(JoinFailure::Unavailable(format!("{why} {}?", self.0.config.address.port())));
        }
        let others = self.others(&state);
        Ok(format!("joined mesh {} with {others}", state.mesh))
    }

    /// Lets a cluster in, or says why not.
    pub async fn serve_join(&self, accepted: Accepted) {
        let connection = accepted.connection;
        let door = timeout(PATIENCE, Arc::clone(&self.0.doors).acquire_owned()).await;
        let Ok(Ok(_door)) = door else {
            connection.close(Close::Denied.code(), b"too many clusters ask to join: try again");
            return;
        };
        let Ok(membership) = self.membership() else {
            connection.close(Close::Denied.code(), b"membership is starting: try again");
            return;
        };
        let Ok(Ok((mut send, receive))) = timeout(PATIENCE, connection.accept_bi()).await else { return };
        let answer = join::serve(&mut join(receive, &mut send), &membership).await;
        let address = connection.remote_address();
        match &answer {
            Ok(JoinAnswer::Admitted { member, .. }) => info!(%address, %member, "a cluster was let in"),
            Ok(JoinAnswer::Possible) => info!(%address, "a cluster may join"),
            Ok(JoinAnswer::Expected(next)) => info!(%address, next, "a cluster asked for its incarnation"),
            Ok(JoinAnswer::Refused(why)) => warn!(%address, why, "a cluster was refused"),
            Err(error) => warn!(%address, %error, "a cluster has asked to join in vain"),
        }
        if send.finish().is_ok() {
            let _ = timeout(PATIENCE, connection.closed()).await;
        }
        if !matches!(answer, Ok(JoinAnswer::Admitted { .. } | JoinAnswer::Possible | JoinAnswer::Expected(_)))
        {
            tokio::time::sleep(PENALTY).await;
        }
    }

    /// Whether this cluster can join at all; a sentence if it need not any more.
    fn joined(&self, token: &Token) -> Result<Option<String>, JoinFailure> {
        let known = self.known()?;
        let others = self.others(&known.state);
        let local = &self.0.config.local.cluster;
        if token.issuer == *local {
            let why = format!(
                "this token was made by this cluster ({local}): use it on the cluster that is to join"
            );
            return Err(JoinFailure::Refused(why));
        }
        if known.state.mesh == token.mesh {
            return if known.caught_up && known.status.leader.is_none() && !others.is_empty() {
                Err(JoinFailure::Refused(format!(
                    "this cluster is a member of mesh {} already, but too few of {others} answer it: see `tombolo mesh \
                     status`; if it was taken out, run `tombolo disconnect` first",
                    token.mesh
                )))
            } else if known.caught_up {
                Ok(Some(format!("joined mesh {} with {others}", token.mesh)))
            } else {
                Err(JoinFailure::Unavailable(
                    "joining: no member has sent the state of the mesh yet".to_owned(),
                ))
            };
        }
        if !others.is_empty() {
            return Err(JoinFailure::Refused(format!(
                "this cluster is already a member of mesh {} with {others}: disconnect it first, with `tombolo disconnect`",
                known.state.mesh
            )));
        }
        token.check_time(unix_now())?;
        Ok(None)
    }

    async fn ask(&self, token: &Token, dry_run: bool) -> Result<Option<(MemberId, MeshState)>, JoinFailure> {
        let nodes = self.0.parts.nodes.borrow().clone();
        let nodes = nodes.ok_or_else(|| {
            JoinFailure::Unavailable("the nodes of this cluster are still being read: try again".to_owned())
        })?;
        let record =
            record::wanted(self, &nodes, None).map_err(|error| JoinFailure::Refused(error.to_string()))?;
        let request = JoinRequest::new(token, record, dry_run);
        let expected = Expected::Pinned(Pin(token.ca_pin));
        let connection =
            self.0.parts.dialer.connect_any(&token.endpoints, &expected, Service::Join).await.map_err(
                |error| {
                    let endpoints: Vec<_> = token.endpoints.iter().map(ToString::to_string).collect();
                    JoinFailure::Unavailable(format!(
                        "cluster {} does not answer at {}: {error}",
                        token.issuer,
                        endpoints.join(", ")
                    ))
                },
            )?;
        let streams = connection.open_bi().await;
        let (mut send, receive) = streams.map_err(|error| JoinFailure::Unavailable(error.to_string()))?;
        let answer = join::request(&mut join(receive, &mut send), &request).await;
        let closed = connection.close_reason();
        connection.close(Close::Done.code(), b"");
        match (answer, closed) {
            // Why the member has ended the connection says more than that it has ended.
            (Err(JoinError::Io(_)), Some(reason)) => {
                Err(JoinFailure::Unavailable(format!("cluster {}: {reason}", token.issuer)))
            }
            (answer, _) => Ok(answer?),
        }
    }

    fn check_admitted(&self, token: &Token, member: MemberId, state: &MeshState) -> Result<(), JoinFailure> {
        let own = &self.0.config.local;
        let record = state.clusters.get(&own.cluster_id);
        let fits = state.mesh == token.mesh
            && record.is_some_and(|r| r.name == own.cluster && r.member() == member && r.ca == self.own_ca());
        if fits {
            Ok(())
        } else {
            Err(JoinFailure::Refused("the member's answer contradicts the token".to_owned()))
        }
    }

    /// The names of the other clusters.
    pub(super) fn others(&self, state: &MeshState) -> String {
        let own = self.0.config.local.cluster_id;
        state.others(own).map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Seconds since 1970 (UTC); 0 for a clock before that.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
