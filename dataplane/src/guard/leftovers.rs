//! Chains of interfaces that are gone. The kernel keeps such a chain for the day when an interface of that name comes
//! back; a workload's never does, and its port may go while no agent looks.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    HEADER, NETLINK_NETFILTER, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, TABLE, attribute, nfnetlink, text,
};
use crate::Dataplane;
use crate::sys;

impl Dataplane {
    /// The guards of interfaces that went, or stopped being these ports', while nobody looked go too.
    pub fn release_others(&self, interfaces: &BTreeSet<String>) -> io::Result<()> {
        let _transaction = self.closing.claim(&[]);
        let chains = chains()?;
        let is_other = |name: &&String| !interfaces.contains(*name) || sys::if_index(name).is_err();
        super::let_host_in(&chains.iter().filter(is_other).map(String::as_str).collect::<Vec<_>>());
        Ok(())
    }
}

/// The names of our chains, which are those of interfaces.
fn chains() -> io::Result<Vec<String>> {
    let family = u8::try_from(libc::NFPROTO_NETDEV).unwrap_or_default();
    let kind = libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_GETCHAIN;
    let table = attribute(NFTA_CHAIN_TABLE, &text(TABLE));
    let socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    (&socket).write_all(&nfnetlink(kind, libc::NLM_F_DUMP, family, 0, &table))?;
    let mut names = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = (&socket).read(&mut buffer)?;
        if count == 0 || read_chains(buffer.get(..count).unwrap_or_default(), &mut names)? {
            return Ok(names);
        }
    }
}

/// Takes one datagram of the dump. `true`: it was the last.
fn read_chains(mut octets: &[u8], names: &mut Vec<String>) -> io::Result<bool> {
    while let Some(header) = octets.get(..HEADER) {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = i32::from(u16::from_ne_bytes([header[4], header[5]]));
        let body = octets.get(HEADER..len).ok_or(io::ErrorKind::InvalidData)?;
        match kind {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let code = body.first_chunk().copied().map(i32::from_ne_bytes).unwrap_or_default();
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            // The attributes stand behind a header of four octets.
            _ => names.extend(name(body.get(4..).unwrap_or_default())),
        }
        octets = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The chain's name, if it is of our table.
fn name(mut attributes: &[u8]) -> Option<String> {
    let (mut table, mut chain) = (None, None);
    while let Some(&[a, b, c, d]) = attributes.first_chunk() {
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let value = attributes.get(4..len)?;
        let text = || std::str::from_utf8(value.strip_suffix(&[0])?).ok().map(str::to_owned);
        match u16::from_ne_bytes([c, d]) {
            NFTA_CHAIN_TABLE => table = text(),
            NFTA_CHAIN_NAME => chain = text(),
            _ => {}
        }
        attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    chain.filter(|_| table.as_deref() == Some(TABLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumped(table: &str, chain: &str) -> Vec<u8> {
        let attributes = [
            attribute(NFTA_CHAIN_TABLE, &text(table)),
            attribute(7, &[1]),
            attribute(NFTA_CHAIN_NAME, &text(chain)),
        ];
        nfnetlink(libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_NEWCHAIN, 0, 5, 0, &attributes.concat())
    }

    #[test]
    fn chains_of_our_table_are_found_and_others_are_not() {
        let end = nfnetlink(libc::NLMSG_DONE, 0, 0, 0, &[]);
        let octets = [dumped(TABLE, "vr1"), dumped("other", "vr2"), dumped(TABLE, "vr3"), end].concat();
        let mut names = Vec::new();
        assert!(read_chains(&octets, &mut names).unwrap());
        assert_eq!(names, ["vr1", "vr3"]);
        assert!(!read_chains(&dumped(TABLE, "vr4"), &mut names).unwrap(), "more is to come");
    }

    #[test]
    fn lying_lengths_end_the_reading() {
        let good = dumped(TABLE, "vr1");
        for cut in 1..good.len() {
            let mut names = Vec::new();
            let _ = read_chains(&good[..cut], &mut names);
            assert!(names.is_empty(), "{cut}");
        }
        for place in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[place] = value;
                let _ = read_chains(&bad, &mut Vec::new());
            }
        }
    }
}
