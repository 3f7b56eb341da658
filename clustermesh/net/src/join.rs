//! Letting a cluster in, and asking to be let in, over one stream of an authenticated connection. A joining side knows
//! the member by the pin in the token, the member knows it by the token's secret. One that comes back after the loss of
//! its storage knows the member by its certificate, and is known by the signature of its authority.
//!
//! Both messages are a length (4 bytes, big-endian) and that many bytes of protobuf.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tombolo_mesh_core::membership::{
    Command, DecodeError, EntryRequest, JoinAnswer, JoinRequest, MemberId, MeshState, Refusal, Renewal,
};
use tombolo_model::ClusterId;

use crate::raft::{Membership, ProposeError};

/// The longest request: a record within its limits is shorter.
const MAX_REQUEST: usize = 64 * 1024;
/// The longest answer: a state that fits into storage is shorter.
const MAX_ANSWER: usize = 1024 * 1024;
/// How long either side waits for the other one's bytes.
const IO_LIMIT: Duration = Duration::from_secs(5);
/// How long the mesh may take to decide.
const DECISION_LIMIT: Duration = Duration::from_secs(10);

/// Why a cluster did not get in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The mesh said no; the text is for the user.
    #[error("the mesh refuses: {0}")]
    Refused(String),
    /// The stream broke.
    #[error("the connection to the member broke while joining: {0}")]
    Io(#[from] std::io::Error),
    /// The other side is silent.
    #[error("the member did not answer in time: try again, or through another member")]
    Timeout,
    /// The other side sent something else.
    #[error("the other side sent no valid message: {0}")]
    Decode(#[from] DecodeError),
    /// The other side announced more than is read.
    #[error("the other side announced a message of {given} bytes, at most {max} are read")]
    TooLong {
        /// What was announced.
        given: usize,
        /// The limit.
        max: usize,
    },
}

/// Asks to be let in; none for a dry run that would succeed.
pub async fn request<S>(
    stream: &mut S,
    request: &JoinRequest,
) -> Result<Option<(MemberId, MeshState)>, JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match exchange(stream, EntryRequest::Join(Box::new(request.clone()))).await? {
        JoinAnswer::Admitted { member, state } => Ok(Some((member, state))),
        JoinAnswer::Possible => Ok(None),
        JoinAnswer::Expected(_) => Err(JoinError::Refused("it takes this cluster for a member".to_owned())),
        JoinAnswer::Refused(why) => Err(JoinError::Refused(why)),
    }
}

/// What became of a [`Renewal`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Renewed {
    /// It holds: the new member, and the mesh.
    Done(MemberId, Box<MeshState>),
    /// The mesh is at another incarnation: this one comes next.
    Expected(u32),
}

/// Asks to come back with empty storage.
pub async fn renew<S>(stream: &mut S, renewal: &Renewal) -> Result<Renewed, JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match exchange(stream, EntryRequest::Renew(renewal.clone())).await? {
        JoinAnswer::Admitted { member, state } => Ok(Renewed::Done(member, Box::new(state))),
        JoinAnswer::Expected(incarnation) => Ok(Renewed::Expected(incarnation)),
        JoinAnswer::Possible => Err(JoinError::Refused("it did not decide".to_owned())),
        JoinAnswer::Refused(why) => Err(JoinError::Refused(why)),
    }
}

async fn exchange<S>(stream: &mut S, request: EntryRequest) -> Result<JoinAnswer, JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    within(IO_LIMIT, write_frame(stream, &request.encode())).await?;
    let bytes = within(DECISION_LIMIT + 2 * IO_LIMIT, read_frame(stream, MAX_ANSWER)).await?;
    Ok(JoinAnswer::decode(&bytes)?)
}

/// Answers one request.
pub async fn serve<S>(stream: &mut S, membership: &Membership) -> Result<JoinAnswer, JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let bytes = within(IO_LIMIT, read_frame(stream, MAX_REQUEST)).await?;
    let answer = match EntryRequest::decode(&bytes) {
        Ok(EntryRequest::Join(request)) => decide(*request, membership).await,
        Ok(EntryRequest::Renew(renewal)) => decide_renewal(renewal, membership).await,
        Err(error) => JoinAnswer::Refused(error.to_string()),
    };
    within(IO_LIMIT, write_frame(stream, &answer.encode())).await?;
    Ok(answer)
}

async fn decide(request: JoinRequest, membership: &Membership) -> JoinAnswer {
    let (cluster, admission) = (request.record.id, request.admission());
    let view = membership.watch().borrow().clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    if request.dry_run {
        return match view.state.check_admission(&request.record, &admission, now) {
            Ok(()) => JoinAnswer::Possible,
            Err(refusal) => JoinAnswer::Refused(refusal.to_string()),
        };
    }
    let command = Command::AddCluster { record: request.record, admission };
    if let Err(error) = membership.propose(command, DECISION_LIMIT).await {
        return JoinAnswer::Refused(error.to_string());
    }
    admitted(cluster, membership).await
}

async fn decide_renewal(renewal: Renewal, membership: &Membership) -> JoinAnswer {
    let cluster = renewal.cluster;
    let known =
        membership.watch().borrow().state.clusters.get(&cluster).map(|c| c.incarnation.saturating_add(1));
    if let Some(expected) = known.filter(|expected| *expected != renewal.incarnation) {
        return JoinAnswer::Expected(expected);
    }
    match membership.propose(Command::RenewMember(renewal), DECISION_LIMIT).await {
        Ok(_) => admitted(cluster, membership).await,
        Err(ProposeError::Refused(Refusal::WrongIncarnation { expected, .. })) => {
            JoinAnswer::Expected(expected)
        }
        Err(error) => JoinAnswer::Refused(error.to_string()),
    }
}

/// The member that the mesh has for a cluster which it has just decided on.
async fn admitted(cluster: ClusterId, membership: &Membership) -> JoinAnswer {
    let mut watch = membership.watch();
    let known = timeout(IO_LIMIT, watch.wait_for(|view| view.state.clusters.contains_key(&cluster))).await;
    let state = known.ok().and_then(|known| known.ok().map(|view| (*view.state).clone()));
    match state.and_then(|state| Some((state.clusters.get(&cluster)?.member(), state))) {
        Some((member, state)) => JoinAnswer::Admitted { member, state },
        None => JoinAnswer::Refused("the cluster was removed again at once".to_owned()),
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, JoinError>>,
) -> Result<T, JoinError> {
    timeout(limit, work).await.unwrap_or(Err(JoinError::Timeout))
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), JoinError> {
    let too_long = |_| JoinError::TooLong { given: bytes.len(), max: MAX_ANSWER };
    stream.write_u32(u32::try_from(bytes.len()).map_err(too_long)?).await?;
    stream.write_all(bytes).await?;
    Ok(stream.flush().await?)
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin), max: usize) -> Result<Vec<u8>, JoinError> {
    let given = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if given > max {
        return Err(JoinError::TooLong { given, max });
    }
    let mut bytes = vec![0; given];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
