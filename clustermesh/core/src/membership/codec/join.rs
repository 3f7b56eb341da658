//! Requests to join and their answers.

use prost::{Message, Oneof};

use super::{
    decode_error, missing,
    record::{ClusterMessage, StateMessage, mesh_id},
};
use crate::{
    membership::{DecodeError, JoinAnswer, JoinRequest, MemberId, TokenId},
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
}

#[derive(Clone, PartialEq, Message)]
struct JoinAnswerMessage {
    #[prost(oneof = "Answer", tags = "1, 2, 3")]
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
}

#[derive(Clone, PartialEq, Message)]
struct Admitted {
    #[prost(fixed64, tag = "1")]
    member: u64,
    #[prost(message, optional, tag = "2")]
    state: Option<StateMessage>,
}

impl JoinRequest {
    /// The bytes of the request. They hold the secret.
    pub fn encode(&self) -> Vec<u8> {
        let message = JoinRequestMessage {
            mesh: self.mesh.0.to_be_bytes().to_vec(),
            token: self.token.0,
            secret: self.secret.expose().to_vec(),
            record: Some((&self.record).into()),
            dry_run: self.dry_run,
        };
        message.encode_to_vec()
    }

    /// From the bytes of [`JoinRequest::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message = JoinRequestMessage::decode(bytes).map_err(decode_error)?;
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
            None => Err(missing("answer")),
        }
    }
}
