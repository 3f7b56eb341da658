//! Frames on a stream: 4 bytes of length, big-endian, then the frame.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use quinn::{RecvStream, SendStream};
use tokio_util::codec::{
    FramedRead, FramedWrite, LengthDelimitedCodec, length_delimited::LengthDelimitedCodecError,
};
use tombolo_mesh_core::wire::{
    DecodeError, EncodeError, Frame, decode_frame, encode_frame, limits::MAX_FRAME,
};

use super::Stats;

/// Why a stream of frames ended.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection is gone, or the stream was reset.
    #[error("the stream ended: {0}")]
    Io(#[from] io::Error),
    /// The other side ended the stream.
    #[error("the stream was closed")]
    Closed,
    /// A frame is longer than the limit.
    #[error("a frame is longer than the limit of {MAX_FRAME} bytes")]
    Oversize,
    /// A frame is not valid.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A frame that was to be sent is out of bounds.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// The sending half.
#[derive(Debug)]
pub struct FrameSender {
    inner: FramedWrite<SendStream, LengthDelimitedCodec>,
    stats: Arc<Stats>,
}

/// The receiving half.
#[derive(Debug)]
pub struct FrameReceiver {
    inner: FramedRead<RecvStream, LengthDelimitedCodec>,
    stats: Arc<Stats>,
}

/// Puts frames onto a stream.
pub fn framed(streams: (SendStream, RecvStream), stats: &Arc<Stats>) -> (FrameSender, FrameReceiver) {
    let codec = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_codec();
    (
        FrameSender { inner: FramedWrite::new(streams.0, codec.clone()), stats: stats.clone() },
        FrameReceiver { inner: FramedRead::new(streams.1, codec), stats: stats.clone() },
    )
}

impl FrameSender {
    /// Sends a frame. Waits while the other side is slower.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), FrameError> {
        self.send_encoded(encode_frame(frame)?).await
    }

    /// Sends an encoded frame.
    pub async fn send_encoded(&mut self, frame: Bytes) -> Result<(), FrameError> {
        self.stats.sent_bytes.add(frame.len() as u64);
        self.stats.sent_frames.inc();
        Ok(self.inner.send(frame).await?)
    }

    /// Ends the stream, and waits until the other side has read everything or is gone.
    pub async fn finish(mut self) {
        let stream = self.inner.get_mut();
        if stream.finish().is_ok() {
            // Whether it was read or the connection is gone makes no difference to the one who leaves.
            let _ = stream.stopped().await;
        }
    }
}

impl FrameReceiver {
    /// The next frame.
    pub async fn receive(&mut self) -> Result<Frame, FrameError> {
        let bytes = match self.inner.next().await {
            None => return Err(FrameError::Closed),
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) if too_long(&error) => {
                self.stats.oversize_frames.inc();
                return Err(FrameError::Oversize);
            }
            Some(Err(error)) => return Err(error.into()),
        };
        self.stats.received_bytes.add(bytes.len() as u64);
        self.stats.received_frames.inc();
        decode_frame(&bytes).map_err(|error| {
            self.stats.invalid_frames.inc();
            error.into()
        })
    }
}

fn too_long(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|e| e.is::<LengthDelimitedCodecError>())
}
