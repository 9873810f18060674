//! Sockets at the gateway's addresses, of both families, for datagrams and streams, all on one port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use tokio::net::{TcpListener, UdpSocket};

/// Ports that are tried: one that is free for one socket may be taken for another.
const ATTEMPTS: usize = 8;

/// What listens.
pub(super) struct Sockets {
    pub(super) port: u16,
    pub(super) streams: Vec<TcpListener>,
    pub(super) datagrams: Vec<UdpSocket>,
}

/// Opens them. A host without IPv6 goes without; which port it is only the pipeline needs to know.
pub(super) async fn both(v4: Ipv4Addr, v6: Ipv6Addr) -> io::Result<Sockets> {
    let scope = interface_of(v6);
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for _ in 0..ATTEMPTS {
        match open(v4, scope.map(|scope| (v6, scope))).await {
            Ok(sockets) => return Ok(sockets),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn open(v4: Ipv4Addr, v6: Option<(Ipv6Addr, u32)>) -> io::Result<Sockets> {
    let first = TcpListener::bind((v4, 0)).await?;
    let port = first.local_addr()?.port();
    let mut sockets =
        Sockets { port, streams: vec![first], datagrams: vec![UdpSocket::bind((v4, port)).await?] };
    if let Some((v6, scope)) = v6 {
        let address = SocketAddr::V6(SocketAddrV6::new(v6, port, 0, scope));
        sockets.streams.push(TcpListener::bind(address).await?);
        sockets.datagrams.push(UdpSocket::bind(address).await?);
    }
    Ok(sockets)
}

/// The interface that has an address, as the kernel lists them: address, index, … all in hexadecimal digits.
fn interface_of(address: Ipv6Addr) -> Option<u32> {
    let wanted: String = address.octets().iter().map(|octet| format!("{octet:02x}")).collect();
    let table = std::fs::read_to_string("/proc/self/net/if_inet6").ok()?;
    let line = table.lines().find(|line| line.starts_with(&wanted))?;
    u32::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_sockets_share_one_port() {
        let sockets = both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST).await.unwrap();
        assert_ne!(sockets.port, 0);
        assert_eq!(sockets.streams.len(), sockets.datagrams.len());
        for listener in &sockets.streams {
            assert_eq!(listener.local_addr().unwrap().port(), sockets.port);
        }
        for socket in &sockets.datagrams {
            assert_eq!(socket.local_addr().unwrap().port(), sockets.port);
        }
    }
}
