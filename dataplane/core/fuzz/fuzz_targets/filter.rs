//! Filters of captures, whatever somebody types, against whatever somebody sends.
#![no_main]

use dataplane_core::Filter;
use dataplane_core::filter::{MAX_TEXT, Subject};
use dataplane_core_fuzz::PE;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| {
    let (text, octets) = input;
    let Ok(filter) = text.parse::<Filter>() else { return };
    let printed = filter.to_string();
    if printed.len() <= MAX_TEXT {
        assert_eq!(printed.parse::<Filter>().as_ref(), Ok(&filter));
    }
    filter.matches(&Subject::ethernet(octets));
    filter.matches(&Subject::tunnel(PE.into(), PE.into(), octets));
});
