//! What the kernel does at our word.

use super::give_back;

const PAGE: usize = 4096;

/// Whether pages are as long as `give_back` takes them to be; others give nothing back.
fn pages_fit() -> bool {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let line = maps.lines().find(|line| line.starts_with("KernelPageSize:"));
    line.is_some_and(|line| line.ends_with(" 4 kB"))
}

#[test]
fn pages_come_back_as_zeros_and_octets_outside_of_whole_pages_stay() {
    let fit = pages_fit();
    for (start, short) in [(0, 0), (1, 0), (0, 1), (10, 4000), (PAGE, PAGE), (PAGE - 1, PAGE - 1)] {
        let mut memory = vec![0xaa_u8; 8 * PAGE];
        let (end, at) = (memory.len() - short, memory.as_ptr().addr());
        give_back(&mut memory[start..end]);
        let mut zeros = 0;
        for (index, octet) in memory.iter().enumerate() {
            let page = (at + index) / PAGE * PAGE;
            let whole = page >= at + start && page + PAGE <= at + end && fit;
            assert_eq!(*octet, if whole { 0 } else { 0xaa }, "octet {index} of {start}..{end}");
            zeros += usize::from(whole);
        }
        assert!(zeros >= 5 * PAGE || !fit, "{zeros} octets of {start}..{end}");
        // It is memory as before.
        memory.fill(0x55);
        assert!(memory.iter().all(|octet| *octet == 0x55));
    }
}

#[test]
fn nothing_is_given_back_where_no_whole_page_lies() {
    give_back(&mut []);
    let mut memory = vec![0xaa_u8; 2 * PAGE];
    let first = memory.as_ptr().addr().wrapping_neg() % PAGE;
    for (start, end) in [(0, first), (first + 1, first + PAGE), (first, first + PAGE - 1), (first, first)] {
        give_back(&mut memory[start..end]);
        assert!(memory.iter().all(|octet| *octet == 0xaa), "{start}..{end}");
    }
}
