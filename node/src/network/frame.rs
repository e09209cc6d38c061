//! What stands on streams: frames of a length and an envelope, and the request for a blob.

use std::io;

use conclave_crypto::digest::Digest;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Why no frame comes.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It is longer than any envelope.
    #[error("an oversized frame")]
    Oversized,
    /// The stream ends or breaks.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a frame: `length ‖ envelope`, the length as u32 little-endian.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), envelope: &[u8]) -> io::Result<()> {
    let length = u32::try_from(envelope.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(envelope).await
}

/// The length of the next frame, `most` or less.
pub async fn length(
    stream: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> Result<usize, FrameError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    if length > most {
        return Err(FrameError::Oversized);
    }
    Ok(length)
}

/// The envelope of a frame of this length. Room is made for what has come, not for what was announced.
pub async fn envelope(stream: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut frame = stream.take(u64::try_from(length).map_err(io::Error::other)?);
    frame.read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Asks for a blob from some byte on: `name ‖ offset`, the offset as u64 little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The blob.
    pub name: Digest,
    /// How much of it is there already.
    pub offset: u64,
}

impl Ask {
    /// As it is written.
    pub fn to_bytes(self) -> [u8; ASK] {
        let mut bytes = [0; ASK];
        let (name, offset) = bytes.split_at_mut(self.name.0.len());
        name.copy_from_slice(&self.name.0);
        offset.copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// Read: any bytes ask for something.
    #[expect(clippy::missing_panics_doc, reason = "40 bytes are 32 and 8")]
    pub fn from_bytes(bytes: &[u8; ASK]) -> Self {
        let (name, offset) = bytes.split_first_chunk().expect("40 bytes");
        Self {
            name: Digest(*name),
            offset: u64::from_le_bytes(offset.try_into().expect("8 more")),
        }
    }

    /// What is wanted of the blob; nothing beyond its end.
    pub fn of(self, blob: &[u8]) -> &[u8] {
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX);
        blob.get(offset..).unwrap_or_default()
    }
}

/// Bytes of an [`Ask`].
pub const ASK: usize = 40;

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn frames_come_as_they_went_and_end_where_they_break() {
        let mut written = Vec::new();
        for envelope in [b"one".as_slice(), b"", b"three"] {
            block_on(write(&mut written, envelope)).unwrap();
        }
        let mut stream = written.as_slice();
        for envelope_written in [b"one".as_slice(), b"", b"three"] {
            let announced = block_on(length(&mut stream, 5)).unwrap();
            let read = block_on(envelope(&mut stream, announced)).unwrap();
            assert_eq!(read, envelope_written);
        }
        assert!(matches!(
            block_on(length(&mut stream, 5)),
            Err(FrameError::Io(_))
        ));
        let mut long = &written[..];
        assert!(matches!(
            block_on(length(&mut long, 2)),
            Err(FrameError::Oversized)
        ));
        let cut = &written[..6];
        let mut cut = &cut[4..];
        assert!(block_on(envelope(&mut cut, 3)).is_err());
    }

    #[test]
    fn a_blob_is_asked_for_from_anywhere() {
        let blob = b"a blob";
        for (offset, rest) in [(0, b"a blob".as_slice()), (2, b"blob"), (6, b""), (7, b"")] {
            let ask = Ask {
                name: Digest([3; 32]),
                offset,
            };
            assert_eq!(Ask::from_bytes(&ask.to_bytes()), ask);
            assert_eq!(ask.of(blob), rest);
        }
        let far = Ask {
            name: Digest([3; 32]),
            offset: u64::MAX,
        };
        assert_eq!(far.of(blob), b"");
    }
}
