//! The options of a client's message (RFC 2132), found wherever they are: behind the cookie, and in the file and
//! server name fields where the client says so (option overload).

use std::net::Ipv4Addr;

use super::FIXED;

pub(super) const PAD: u8 = 0;
pub(super) const MASK: u8 = 1;
pub(super) const ROUTER: u8 = 3;
pub(super) const DNS: u8 = 6;
pub(super) const HOST_NAME: u8 = 12;
pub(super) const DOMAIN: u8 = 15;
pub(super) const MTU: u8 = 26;
pub(super) const BROADCAST_ADDRESS: u8 = 28;
const REQUESTED: u8 = 50;
pub(super) const LEASE: u8 = 51;
const OVERLOAD: u8 = 52;
pub(super) const KIND: u8 = 53;
pub(super) const SERVER: u8 = 54;
const WANTED: u8 = 55;
pub(super) const TEXT: u8 = 56;
const MAX_SIZE: u8 = 57;
pub(super) const RENEW: u8 = 58;
pub(super) const REBIND: u8 = 59;
pub(super) const CLIENT: u8 = 61;
const RELAY_AGENT: u8 = 82;
pub(super) const SEARCH: u8 = 119;
pub(super) const ROUTES: u8 = 121;
pub(super) const ROUTES_MICROSOFT: u8 = 249;
pub(super) const END: u8 = 255;

/// What we want to know of a client's options. Of an option that comes more than once the first counts; longer ones
/// that are split (RFC 3396) are none of these.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found<'b> {
    pub(super) kind: Option<u8>,
    pub(super) requested: Option<Ipv4Addr>,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) client: Option<&'b [u8]>,
    pub(super) max_size: Option<u16>,
    wanted: Option<&'b [u8]>,
    pub(super) relayed: bool,
    overload: u8,
}

impl Found<'_> {
    /// Whether the client asked for this option by name.
    pub(super) fn wants(&self, option: u8) -> bool {
        self.wanted.is_some_and(|wanted| wanted.contains(&option))
    }
}

/// `None` where an option runs over the end or has a length that it cannot have.
pub(super) fn find<'b>(fixed: &'b [u8; FIXED], rest: &'b [u8]) -> Option<Found<'b>> {
    let mut found = Found::default();
    walk(rest, &mut found)?;
    let (sname, file) = (fixed.get(44..108)?, fixed.get(108..236)?);
    match std::mem::take(&mut found.overload) {
        0 => {}
        1 => walk(file, &mut found)?,
        2 => walk(sname, &mut found)?,
        _ => {
            walk(file, &mut found)?;
            walk(sname, &mut found)?;
        }
    }
    Some(found)
}

fn walk<'b>(mut options: &'b [u8], found: &mut Found<'b>) -> Option<()> {
    loop {
        match options {
            [] | [END, ..] => return Some(()),
            [PAD, rest @ ..] => options = rest,
            [code, len, rest @ ..] => {
                let (value, rest) = rest.split_at_checked(usize::from(*len))?;
                note(*code, value, found)?;
                options = rest;
            }
            [_] => return None,
        }
    }
}

fn note<'b>(code: u8, value: &'b [u8], found: &mut Found<'b>) -> Option<()> {
    let address = || <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
    match code {
        KIND => first(&mut found.kind, <[u8; 1]>::try_from(value).ok()?[0]),
        REQUESTED => first(&mut found.requested, address()?),
        SERVER => first(&mut found.server, address()?),
        MAX_SIZE => first(&mut found.max_size, u16::from_be_bytes(value.try_into().ok()?)),
        OVERLOAD => {
            let [which] = <[u8; 1]>::try_from(value).ok()?;
            found.overload = Some(which).filter(|which| (1..=3).contains(which))?;
        }
        CLIENT if value.len() >= 2 => first(&mut found.client, value),
        CLIENT => return None,
        WANTED => first(&mut found.wanted, value),
        RELAY_AGENT => found.relayed = true,
        _ => {}
    }
    Some(())
}

fn first<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_all_three_places_and_the_first_counts() {
        let mut fixed = [0; FIXED];
        fixed[108..114].copy_from_slice(&[REQUESTED, 4, 10, 0, 0, 9]);
        fixed[114] = END;
        fixed[44..48].copy_from_slice(&[KIND, 1, 7, END]);
        let found = find(&fixed, &[PAD, OVERLOAD, 1, 3, KIND, 1, 3, END, 1]).unwrap();
        assert_eq!((found.kind, found.requested), (Some(3), Some(Ipv4Addr::new(10, 0, 0, 9))));
        let found = find(&fixed, &[KIND, 1, 3]).unwrap();
        assert_eq!(found.requested, None, "the file is a file unless the client says otherwise");
    }

    #[test]
    fn options_that_lie_about_their_length_are_refused() {
        let fixed = [0; FIXED];
        for bad in [
            &[KIND][..],
            &[KIND, 2, 1],
            &[KIND, 0],
            &[KIND, 2, 1, 1],
            &[REQUESTED, 3, 1, 2, 3],
            &[SERVER, 5, 1, 2, 3, 4, 5],
            &[MAX_SIZE, 1, 9],
            &[CLIENT, 1, 9],
            &[OVERLOAD, 1, 4],
            &[12, 255, 0],
        ] {
            assert!(find(&fixed, bad).is_none(), "{bad:?}");
        }
    }
}
