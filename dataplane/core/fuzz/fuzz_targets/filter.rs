//! Filters of captures, whatever somebody types, against whatever somebody sends.
#![no_main]

use dataplane_core::Filter;
use dataplane_core::filter::Subject;
use dataplane_core_fuzz::PE;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| {
    let (text, octets) = input;
    let Ok(filter) = text.parse::<Filter>() else { return };
    assert_eq!(filter.to_string().parse::<Filter>().as_ref(), Ok(&filter));
    filter.matches(&Subject::ethernet(octets));
    filter.matches(&Subject::tunnel(PE.into(), PE.into(), octets));
});
