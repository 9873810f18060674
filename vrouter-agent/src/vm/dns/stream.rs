//! The same over TCP: each message behind its length (RFC 1035 §4.2.2, RFC 7766). Asked for where an answer is too
//! long for a datagram.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use vrouter_types::PortId;

use super::{CONNECTIONS, Forwarder, LONGEST, message};
use crate::vm::shares::Share;

/// From one query to the next.
const IDLE: Duration = Duration::from_secs(10);
const CONNECTION_TIME: Duration = Duration::from_secs(120);

/// Serves connections until it is dropped.
pub async fn serve_streams(listener: TcpListener, forwarder: Arc<Forwarder>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    let Some(port) = forwarder.asker(peer.ip()) else { continue };
                    let Some(share) = forwarder.connections.take(port) else { continue };
                    let served = serve(stream, port, Arc::clone(&forwarder), share);
                    connections.spawn(timeout(CONNECTION_TIME, served));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection for names");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

pub(super) async fn serve(mut stream: TcpStream, port: PortId, forwarder: Arc<Forwarder>, _share: Share) {
    while let Ok(Ok(query)) = timeout(IDLE, read(&mut stream, LONGEST)).await {
        if !message::is_query(&query) {
            return;
        }
        let Some(_share) = forwarder.admit(port) else { return };
        let answer = forwarder.resolve_stream(&query).await;
        if !matches!(timeout(IDLE, write(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

impl Forwarder {
    async fn resolve_stream(&self, query: &[u8]) -> Vec<u8> {
        for resolver in self.resolvers.current(Instant::now()) {
            match timeout(self.patience, self.ask_stream(resolver, query)).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(error)) => debug!(%resolver, %error, "a resolver cannot be asked by TCP"),
                Err(_) => debug!(%resolver, "a resolver does not answer by TCP"),
            }
        }
        message::failure(query)
    }

    async fn ask_stream(&self, resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(resolver).await?;
        let sent = message::numbered(query, self.number());
        write(&mut stream, &sent).await?;
        let answer = read(&mut stream, usize::from(u16::MAX)).await?;
        if !message::answers(&answer, &sent) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to something else"));
        }
        Ok(message::numbered(&answer, message::number(query)))
    }
}

async fn read(stream: &mut TcpStream, longest: usize) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16().await?);
    if len > longest {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    stream.write_all(&[&len.to_be_bytes(), message].concat()).await
}
