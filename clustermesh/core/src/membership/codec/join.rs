//! Requests to join and their answers.

use prost::{Message, Oneof};

use super::{
    decode_error, missing,
    record::{ClusterMessage, RenewMemberMessage, StateMessage, mesh_id},
};
use crate::{
    membership::{DecodeError, EntryRequest, JoinAnswer, JoinRequest, MemberId, TokenId},
    token::Secret,
};

#[derive(Clone, PartialEq, Message)]
struct JoinRequestMessage {
    #[prost(bytes = "vec", tag = "1")]
    mesh: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    token: u64,
    #[prost(bytes = "vec", tag = "3")]
    secret: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    record: Option<ClusterMessage>,
    #[prost(bool, tag = "5")]
    dry_run: bool,
    /// In place of all the others.
    #[prost(message, optional, tag = "6")]
    renewal: Option<RenewMemberMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct JoinAnswerMessage {
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4")]
    answer: Option<Answer>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Answer {
    #[prost(message, tag = "1")]
    Admitted(Admitted),
    #[prost(bool, tag = "2")]
    Possible(bool),
    #[prost(string, tag = "3")]
    Refused(String),
    #[prost(uint32, tag = "4")]
    Expected(u32),
}

#[derive(Clone, PartialEq, Message)]
struct Admitted {
    #[prost(fixed64, tag = "1")]
    member: u64,
    #[prost(message, optional, tag = "2")]
    state: Option<StateMessage>,
}

impl EntryRequest {
    /// The bytes of the request. They may hold a secret.
    pub fn encode(&self) -> Vec<u8> {
        let message = match self {
            Self::Join(join) => JoinRequestMessage {
                mesh: join.mesh.0.to_be_bytes().to_vec(),
                token: join.token.0,
                secret: join.secret.expose().to_vec(),
                record: Some((&join.record).into()),
                dry_run: join.dry_run,
                renewal: None,
            },
            Self::Renew(renewal) => {
                JoinRequestMessage { renewal: Some(renewal.into()), ..JoinRequestMessage::default() }
            }
        };
        message.encode_to_vec()
    }

    /// From the bytes of [`EntryRequest::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message = JoinRequestMessage::decode(bytes).map_err(decode_error)?;
        match message.renewal {
            Some(renewal) => renewal.try_into().map(Self::Renew),
            None => message.try_into().map(|join| Self::Join(Box::new(join))),
        }
    }
}

impl TryFrom<JoinRequestMessage> for JoinRequest {
    type Error = DecodeError;

    fn try_from(message: JoinRequestMessage) -> Result<Self, DecodeError> {
        Ok(Self {
            mesh: mesh_id(&message.mesh)?,
            token: TokenId(message.token),
            secret: Secret::new(message.secret.as_slice().try_into().map_err(|_| missing("secret"))?),
            record: message.record.ok_or_else(|| missing("record"))?.try_into()?,
            dry_run: message.dry_run,
        })
    }
}

impl JoinAnswer {
    /// The bytes of the answer.
    pub fn encode(&self) -> Vec<u8> {
        let answer = Some(match self {
            Self::Admitted { member, state } => {
                Answer::Admitted(Admitted { member: member.get(), state: Some(state.into()) })
            }
            Self::Possible => Answer::Possible(true),
            Self::Refused(why) => Answer::Refused(why.clone()),
            Self::Expected(incarnation) => Answer::Expected(*incarnation),
        });
        JoinAnswerMessage { answer }.encode_to_vec()
    }

    /// From the bytes of [`JoinAnswer::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match JoinAnswerMessage::decode(bytes).map_err(decode_error)?.answer {
            Some(Answer::Admitted(admitted)) => Ok(Self::Admitted {
                member: MemberId::from_bits(admitted.member).ok_or_else(|| missing("member"))?,
                state: admitted.state.ok_or_else(|| missing("state"))?.try_into()?,
            }),
            Some(Answer::Possible(_)) => Ok(Self::Possible),
            Some(Answer::Refused(why)) => Ok(Self::Refused(why)),
            Some(Answer::Expected(incarnation)) => Ok(Self::Expected(incarnation)),
            None => Err(missing("answer")),
        }
    }
}
