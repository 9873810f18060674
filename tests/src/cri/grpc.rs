//! A unary gRPC call over HTTP/2 on a Unix socket, and no more of gRPC than that.

use std::path::Path;
use std::time::Duration;

use prost::bytes::{Buf, BufMut, Bytes, BytesMut};

/// One request, one reply: gRPC over HTTP/2 on a Unix socket. The server hears the deadline too, and gives up with us.
pub(super) async fn unary(
    socket: &Path,
    path: &str,
    message: Vec<u8>,
    deadline: Duration,
) -> Result<Bytes, String> {
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
    let (client, connection) = h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let reply = exchange(client, path, message, deadline).await;
    driver.abort();
    reply
}

async fn exchange(
    client: h2::client::SendRequest<Bytes>,
    path: &str,
    message: Vec<u8>,
    deadline: Duration,
) -> Result<Bytes, String> {
    let text = |error: h2::Error| error.to_string();
    let request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", format!("{}m", deadline.as_millis()))
        .body(())
        .map_err(|error| error.to_string())?;
    let mut client = client.ready().await.map_err(text)?;
    let (response, mut body) = client.send_request(request, false).map_err(text)?;
    // One octet "not compressed", four octets of length, the message.
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).map_err(|error| error.to_string())?);
    frame.put_slice(&message);
    body.send_data(frame.freeze(), true).map_err(text)?;
    let (head, mut body) = response.await.map_err(text)?.into_parts();
    let mut received = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(text)?;
        let _ = body.flow_control().release_capacity(chunk.len());
        received.put_slice(&chunk);
    }
    // Where there is no message, the trailers come as the head.
    let trailers = body.trailers().await.map_err(text)?.unwrap_or(head.headers);
    let status = trailers.get("grpc-status").and_then(|value| value.to_str().ok()).unwrap_or("none");
    if status != "0" {
        let message = trailers.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or("");
        return Err(format!("gRPC status {status}: {}", percent_decode(message)));
    }
    if received.len() < 5 {
        return Err("a reply without a message".to_owned());
    }
    received.advance(5);
    Ok(received.freeze())
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match code.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| *first == b'%') {
            Some(octet) => {
                bytes.push(octet);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_errors_are_decoded() {
        assert_eq!(
            percent_decode("plugin %22x%22 failed: %E2%80%A6 100%"),
            "plugin \"x\" failed: \u{2026} 100%"
        );
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
    }
}
