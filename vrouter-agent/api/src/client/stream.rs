//! Replies without an end: one JSON object per line, in chunks (RFC 9112 §7.1), until either side has had enough.

use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read};
use std::time::Instant;

use super::{
    Client, ClientError, Deadline, Failure, MAX_HEAD, MAX_HEADERS, ProtocolError, dial, encode_request,
    parse_head,
};

/// The longest line, and the longest chunk, that is read.
const MAX_LINE: usize = 1 << 20;

impl Client {
    /// Gives `each` the lines that come from this path, as they come, until it says `false` or the agent stops, which is
    /// no error. The timeout is for the beginning only.
    pub fn stream(self, path: &str, mut each: impl FnMut(&str) -> bool) -> Result<(), ClientError> {
        let mut line = Vec::new();
        self.stream_octets(path, |chunk| {
            for byte in chunk {
                if *byte != b'\n' {
                    line.push(*byte);
                } else if !each(&String::from_utf8_lossy(&std::mem::take(&mut line))) {
                    return Ok(false);
                }
            }
            if line.len() > MAX_LINE { Err(ProtocolError::TooLarge(line.len() as u64)) } else { Ok(true) }
        })
    }

    /// The same for octets, chunk by chunk as they come. What `each` finds wrong with them ends it.
    pub fn stream_octets(
        mut self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> Result<bool, ProtocolError>,
    ) -> Result<(), ClientError> {
        let request = encode_request("GET", path, None)?;
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => dial(&self.path, self.timeout)?,
        };
        let mut bytes = Vec::new();
        let deadline = Instant::now() + self.timeout;
        let mut io = Deadline { stream: &mut stream, deadline, timeout: self.timeout };
        io.send(&request).map_err(fatal)?;
        let size = loop {
            if let Some((size, status)) = lines_head(&bytes)? {
                if status == 200 {
                    break size;
                }
                return Err(refusal(&mut io, bytes)?);
            }
            if io.receive(&mut bytes, MAX_HEAD).map_err(fatal)? == 0 {
                return Err(ProtocolError::Closed.into());
            }
        };
        let rest = bytes.split_off(size);
        stream.set_read_timeout(None).map_err(ProtocolError::Io)?;
        let mut chunks = BufReader::new(Cursor::new(rest).chain(stream));
        while let Some(chunk) = chunk(&mut chunks)? {
            if !each(&chunk)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The size of the head and the status, once it is complete.
fn lines_head(bytes: &[u8]) -> Result<Option<(usize, u16)>, ProtocolError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(size) = response.parse(bytes)? else { return Ok(None) };
    let status = response.code.unwrap_or(0);
    let is_chunked = response.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("transfer-encoding") && header.value.eq_ignore_ascii_case(b"chunked")
    });
    if status == 200 && !is_chunked { Err(ProtocolError::Length) } else { Ok(Some((size, status))) }
}

/// What the agent says instead.
fn refusal(io: &mut Deadline<'_>, mut bytes: Vec<u8>) -> Result<ClientError, ClientError> {
    let Some(head) = parse_head(&bytes)? else { return Err(ProtocolError::Closed.into()) };
    let mut body = bytes.split_off(head.size);
    let length = usize::try_from(head.length).ok().filter(|length| *length <= MAX_LINE);
    let length = length.ok_or(ProtocolError::TooLarge(head.length))?;
    while body.len() < length {
        if io.receive(&mut body, length).map_err(fatal)? == 0 {
            return Err(ProtocolError::Closed.into());
        }
    }
    let wrong = |source| ProtocolError::Json { status: head.status, source };
    Ok(ClientError::Refused(serde_json::from_slice(&body).map_err(wrong)?))
}

/// The next chunk; `None`: that was the last.
fn chunk(from: &mut impl BufRead) -> Result<Option<Vec<u8>>, ProtocolError> {
    let mut size = String::new();
    from.by_ref().take(32).read_line(&mut size).map_err(broken)?;
    // RFC 9112 §7.1.1: extensions behind a semicolon mean nothing to us.
    let digits = size.trim_end().split(';').next().unwrap_or_default();
    if digits.is_empty() {
        return Err(ProtocolError::Closed);
    }
    let size = usize::from_str_radix(digits, 16).map_err(|_| ProtocolError::Length)?;
    if size > MAX_LINE {
        return Err(ProtocolError::TooLarge(size as u64));
    }
    let mut chunk = vec![0; size + 2];
    from.read_exact(&mut chunk).map_err(broken)?;
    if !chunk.ends_with(b"\r\n") {
        return Err(ProtocolError::Length);
    }
    chunk.truncate(size);
    Ok((size > 0).then_some(chunk))
}

fn broken(error: std::io::Error) -> ProtocolError {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => ProtocolError::Closed,
        ErrorKind::InvalidData => ProtocolError::Length,
        _ => ProtocolError::Io(error),
    }
}

fn fatal(failure: Failure) -> ClientError {
    match failure {
        Failure::Stale => ProtocolError::Closed.into(),
        Failure::Fatal(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<String>, ProtocolError> {
        let mut from = Cursor::new(text.as_bytes().to_vec());
        let mut chunks = Vec::new();
        while let Some(chunk) = chunk(&mut from)? {
            chunks.push(String::from_utf8(chunk).unwrap());
        }
        Ok(chunks)
    }

    #[test]
    fn chunks_are_read_to_the_last() {
        assert_eq!(all("3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n").unwrap(), ["abc", "0123456789"]);
    }

    #[test]
    fn chunks_that_lie_or_break_off_are_refused() {
        assert!(matches!(all("3\r\nab"), Err(ProtocolError::Closed)));
        assert!(matches!(all(""), Err(ProtocolError::Closed)));
        assert!(matches!(all("3\r\nabcde\r\n"), Err(ProtocolError::Length)));
        assert!(matches!(all("x\r\n"), Err(ProtocolError::Length)));
        assert!(matches!(all("ffffffff\r\n"), Err(ProtocolError::TooLarge(_))));
    }
}
