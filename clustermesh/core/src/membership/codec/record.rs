//! Clusters, tokens, commands and the state machine.

use std::net::SocketAddr;

use prost::{Message, Oneof};
use tombolo_model::{Address, ClusterId, Prefix};

use super::{decode_error, missing};
use crate::membership::{
    Admission, ClusterRecord, ClusterState, Command, DecodeError, Departure, Lineage, MemberId, MeshId,
    MeshState, Proposal, ProposalId, Renewal, TokenId, TokenRecord, TokenStatus,
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct StateMessage {
    #[prost(bytes = "vec", tag = "1")]
    mesh: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    lineage: u64,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(uint64, tag = "4")]
    clock: u64,
    #[prost(message, repeated, tag = "5")]
    clusters: Vec<ClusterMessage>,
    #[prost(message, repeated, tag = "6")]
    tokens: Vec<TokenMessage>,
    /// The last member ids of removed clusters.
    #[prost(uint64, repeated, tag = "7")]
    retired: Vec<u64>,
    #[prost(message, repeated, tag = "8")]
    departures: Vec<DepartureMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DepartureMessage {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    by: String,
    #[prost(uint64, tag = "4")]
    at: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ClusterMessage {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", repeated, tag = "3")]
    ca: Vec<Vec<u8>>,
    #[prost(string, repeated, tag = "4")]
    endpoints: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    node_prefixes: Vec<PrefixMessage>,
    #[prost(message, repeated, tag = "6")]
    pod_prefixes: Vec<PrefixMessage>,
    #[prost(string, repeated, tag = "7")]
    features: Vec<String>,
    #[prost(uint32, tag = "8")]
    incarnation: u32,
    /// 1 joining, 2 active, 3 leaving, 4 lost.
    #[prost(uint32, tag = "9")]
    state: u32,
    #[prost(uint64, tag = "10")]
    revision: u64,
    #[prost(bytes = "vec", tag = "11")]
    signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PrefixMessage {
    /// 16 bytes, IPv4 as v4-mapped.
    #[prost(bytes = "vec", tag = "1")]
    address: Vec<u8>,
    /// Of the 16-byte form, 0..=128.
    #[prost(uint32, tag = "2")]
    bits: u32,
}

#[derive(Clone, PartialEq, Message)]
struct TokenMessage {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    secret_hash: Vec<u8>,
    #[prost(uint64, tag = "3")]
    expires: u64,
    #[prost(uint32, tag = "4")]
    creator: u32,
    /// The cluster that spent it, 0 for none.
    #[prost(uint32, tag = "5")]
    spent_by: u32,
    #[prost(bool, tag = "6")]
    revoked: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ProposalMessage {
    #[prost(fixed64, tag = "1")]
    member: u64,
    #[prost(uint32, tag = "2")]
    start: u32,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(uint32, tag = "4")]
    proposer: u32,
    #[prost(uint64, tag = "5")]
    at: u64,
    #[prost(oneof = "CommandMessage", tags = "6, 7, 8, 9, 10, 11")]
    command: Option<CommandMessage>,
}

#[derive(Clone, PartialEq, Oneof)]
enum CommandMessage {
    #[prost(message, tag = "6")]
    AddCluster(AddClusterMessage),
    #[prost(message, tag = "7")]
    UpdateCluster(ClusterMessage),
    #[prost(uint32, tag = "8")]
    RemoveCluster(u32),
    #[prost(message, tag = "9")]
    RenewMember(RenewMemberMessage),
    #[prost(message, tag = "10")]
    CreateToken(TokenMessage),
    #[prost(fixed64, tag = "11")]
    RevokeToken(u64),
}

#[derive(Clone, PartialEq, Message)]
struct AddClusterMessage {
    #[prost(message, optional, tag = "1")]
    record: Option<ClusterMessage>,
    #[prost(bytes = "vec", tag = "2")]
    mesh: Vec<u8>,
    #[prost(fixed64, tag = "3")]
    token: u64,
    #[prost(bytes = "vec", tag = "4")]
    secret_hash: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RenewMemberMessage {
    #[prost(uint32, tag = "1")]
    cluster: u32,
    #[prost(uint32, tag = "2")]
    incarnation: u32,
    #[prost(bytes = "vec", tag = "3")]
    mesh: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    signature: Vec<u8>,
}

pub(super) fn mesh_id(bytes: &[u8]) -> Result<MeshId, DecodeError> {
    Ok(MeshId(u128::from_be_bytes(bytes.try_into().map_err(|_| missing("mesh"))?)))
}

fn cluster_id(id: u32) -> Result<ClusterId, DecodeError> {
    u16::try_from(id).ok().and_then(|id| id.try_into().ok()).ok_or_else(|| missing("cluster id"))
}

impl From<&MeshState> for StateMessage {
    fn from(state: &MeshState) -> Self {
        Self {
            mesh: state.mesh.0.to_be_bytes().to_vec(),
            lineage: state.lineage.0,
            version: state.version,
            clock: state.clock,
            clusters: state.clusters.values().map(Into::into).collect(),
            tokens: state.tokens.values().map(Into::into).collect(),
            retired: state.retired.iter().map(|(id, n)| MemberId::new(*id, *n).get()).collect(),
            departures: state.departures.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<StateMessage> for MeshState {
    type Error = DecodeError;

    fn try_from(message: StateMessage) -> Result<Self, DecodeError> {
        let mut state = Self::empty(mesh_id(&message.mesh)?, Lineage(message.lineage));
        state.version = message.version;
        state.clock = message.clock;
        for cluster in message.clusters {
            let cluster = ClusterRecord::try_from(cluster)?;
            state.clusters.insert(cluster.id, cluster);
        }
        for token in message.tokens {
            let token = TokenRecord::try_from(token)?;
            state.tokens.insert(token.id, token);
        }
        for id in message.retired {
            let member = MemberId::from_bits(id).ok_or_else(|| missing("retired"))?;
            state.retired.extend(member.cluster().map(|cluster| (cluster, member.incarnation())));
        }
        for departure in message.departures {
            state.departures.push(departure.try_into()?);
        }
        Ok(state)
    }
}

impl From<&Departure> for DepartureMessage {
    fn from(departure: &Departure) -> Self {
        Self {
            id: departure.id.get().into(),
            name: departure.name.as_str().to_owned(),
            by: departure.by.as_str().to_owned(),
            at: departure.at,
        }
    }
}

impl TryFrom<DepartureMessage> for Departure {
    type Error = DecodeError;

    fn try_from(message: DepartureMessage) -> Result<Self, DecodeError> {
        let name = |name: &str| name.parse().map_err(|_| missing("cluster name"));
        Ok(Self {
            id: cluster_id(message.id)?,
            name: name(&message.name)?,
            by: name(&message.by)?,
            at: message.at,
        })
    }
}

impl From<&ClusterRecord> for ClusterMessage {
    fn from(record: &ClusterRecord) -> Self {
        Self {
            id: record.id.get().into(),
            name: record.name.as_str().to_owned(),
            ca: record.ca.clone(),
            endpoints: record.endpoints.iter().map(ToString::to_string).collect(),
            node_prefixes: record.node_prefixes.iter().map(Into::into).collect(),
            pod_prefixes: record.pod_prefixes.iter().map(Into::into).collect(),
            features: record.features.iter().cloned().collect(),
            incarnation: record.incarnation,
            state: match record.state {
                ClusterState::Joining => 1,
                ClusterState::Active => 2,
                ClusterState::Leaving => 3,
                ClusterState::Lost => 4,
            },
            revision: record.revision,
            signature: record.signature.clone(),
        }
    }
}

impl ClusterRecord {
    /// Bytes that it takes in an encoded state.
    pub(in crate::membership) fn stored_len(&self) -> usize {
        /// Its tag and length.
        const FRAME: usize = 4;
        ClusterMessage::from(self).encoded_len() + FRAME
    }

    /// What a cluster signs: all of it but what the mesh decides, which is incarnation and state.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let said = ClusterMessage { incarnation: 0, state: 0, signature: Vec::new(), ..self.into() };
        [b"tombolo cluster record\0".as_slice(), &said.encode_to_vec()].concat()
    }
}

impl TryFrom<ClusterMessage> for ClusterRecord {
    type Error = DecodeError;

    fn try_from(message: ClusterMessage) -> Result<Self, DecodeError> {
        let prefixes =
            |list: Vec<PrefixMessage>| list.into_iter().map(Prefix::try_from).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            id: cluster_id(message.id)?,
            name: message.name.parse().map_err(decode_error)?,
            ca: message.ca,
            endpoints: message
                .endpoints
                .iter()
                .map(|e| e.parse::<SocketAddr>().map_err(decode_error))
                .collect::<Result<_, _>>()?,
            node_prefixes: prefixes(message.node_prefixes)?,
            pod_prefixes: prefixes(message.pod_prefixes)?,
            features: message.features.into_iter().collect(),
            incarnation: message.incarnation,
            state: match message.state {
                1 => ClusterState::Joining,
                2 => ClusterState::Active,
                3 => ClusterState::Leaving,
                4 => ClusterState::Lost,
                _ => return Err(missing("cluster state")),
            },
            revision: message.revision,
            signature: message.signature,
        })
    }
}

impl From<&Prefix> for PrefixMessage {
    fn from(prefix: &Prefix) -> Self {
        Self { address: prefix.address().octets().to_vec(), bits: prefix.bits().into() }
    }
}

impl TryFrom<PrefixMessage> for Prefix {
    type Error = DecodeError;

    fn try_from(message: PrefixMessage) -> Result<Self, DecodeError> {
        let octets = message.address.as_slice().try_into().map_err(|_| missing("prefix"))?;
        let bits =
            u8::try_from(message.bits).ok().filter(|b| *b <= 128).ok_or_else(|| missing("prefix bits"))?;
        Ok(Self::new(Address::from_octets(octets), bits))
    }
}

impl From<&TokenRecord> for TokenMessage {
    fn from(token: &TokenRecord) -> Self {
        Self {
            id: token.id.0,
            secret_hash: token.secret_hash.to_vec(),
            expires: token.expires,
            creator: token.creator.get().into(),
            spent_by: match token.status {
                TokenStatus::Spent(by) => by.get().into(),
                TokenStatus::Open | TokenStatus::Revoked => 0,
            },
            revoked: token.status == TokenStatus::Revoked,
        }
    }
}

impl TryFrom<TokenMessage> for TokenRecord {
    type Error = DecodeError;

    fn try_from(message: TokenMessage) -> Result<Self, DecodeError> {
        let status = match (message.spent_by, message.revoked) {
            (0, false) => TokenStatus::Open,
            (0, true) => TokenStatus::Revoked,
            (by, _) => TokenStatus::Spent(cluster_id(by)?),
        };
        Ok(Self {
            id: TokenId(message.id),
            secret_hash: message.secret_hash.as_slice().try_into().map_err(|_| missing("secret hash"))?,
            expires: message.expires,
            creator: cluster_id(message.creator)?,
            status,
        })
    }
}

impl From<&Renewal> for RenewMemberMessage {
    fn from(renewal: &Renewal) -> Self {
        Self {
            cluster: renewal.cluster.get().into(),
            incarnation: renewal.incarnation,
            mesh: renewal.mesh.0.to_be_bytes().to_vec(),
            signature: renewal.signature.clone(),
        }
    }
}

impl TryFrom<RenewMemberMessage> for Renewal {
    type Error = DecodeError;

    fn try_from(message: RenewMemberMessage) -> Result<Self, DecodeError> {
        Ok(Self {
            mesh: mesh_id(&message.mesh)?,
            cluster: cluster_id(message.cluster)?,
            incarnation: message.incarnation,
            signature: message.signature,
        })
    }
}

impl From<&Proposal> for ProposalMessage {
    fn from(proposal: &Proposal) -> Self {
        Self {
            member: proposal.id.member.get(),
            start: proposal.id.start,
            sequence: proposal.id.sequence,
            proposer: proposal.proposer.get().into(),
            at: proposal.at,
            command: match &proposal.command {
                Command::AddCluster { record, admission } => {
                    Some(CommandMessage::AddCluster(AddClusterMessage {
                        record: Some(record.into()),
                        mesh: admission.mesh.0.to_be_bytes().to_vec(),
                        token: admission.token.0,
                        secret_hash: admission.secret_hash.to_vec(),
                    }))
                }
                Command::UpdateCluster(record) => Some(CommandMessage::UpdateCluster(record.into())),
                Command::RemoveCluster(id) => Some(CommandMessage::RemoveCluster(id.get().into())),
                Command::RenewMember(renewal) => Some(CommandMessage::RenewMember(renewal.into())),
                Command::CreateToken(token) => Some(CommandMessage::CreateToken(token.into())),
                Command::RevokeToken(id) => Some(CommandMessage::RevokeToken(id.0)),
                Command::Unknown => None,
            },
        }
    }
}

impl TryFrom<ProposalMessage> for Proposal {
    type Error = DecodeError;

    fn try_from(message: ProposalMessage) -> Result<Self, DecodeError> {
        Ok(Self {
            id: ProposalId {
                member: MemberId::from_bits(message.member).ok_or_else(|| missing("member"))?,
                start: message.start,
                sequence: message.sequence,
            },
            proposer: cluster_id(message.proposer)?,
            at: message.at,
            command: message.command.map_or(Ok(Command::Unknown), TryInto::try_into)?,
        })
    }
}

impl TryFrom<CommandMessage> for Command {
    type Error = DecodeError;

    fn try_from(message: CommandMessage) -> Result<Self, DecodeError> {
        Ok(match message {
            CommandMessage::AddCluster(add) => Self::AddCluster {
                record: add.record.ok_or_else(|| missing("record"))?.try_into()?,
                admission: Admission {
                    mesh: mesh_id(&add.mesh)?,
                    token: TokenId(add.token),
                    secret_hash: add.secret_hash.as_slice().try_into().map_err(|_| missing("secret hash"))?,
                },
            },
            CommandMessage::UpdateCluster(record) => Self::UpdateCluster(record.try_into()?),
            CommandMessage::RemoveCluster(id) => Self::RemoveCluster(cluster_id(id)?),
            CommandMessage::RenewMember(renewal) => Self::RenewMember(renewal.try_into()?),
            CommandMessage::CreateToken(token) => Self::CreateToken(token.try_into()?),
            CommandMessage::RevokeToken(id) => Self::RevokeToken(TokenId(id)),
        })
    }
}
