//! Sub-ports: several ports on one interface, told apart by 802.1Q tag, as a virtual machine's trunk has them.
//!
//! ```text
//!                 ┌ no tag, or tag 0 ──▶ parent's socket
//!  tap ── frame ──┼ tag 101 ───────────▶ socket of sub-port 101
//!                 ├ tag 102 ───────────▶ socket of sub-port 102
//!                 └ any other ─────────▶ parent's socket, which drops it by name
//! ```
//! Each port has a socket of its own, and a classic BPF program says which frames enter it, so that no frame is copied
//! twice. The kernel takes a tag off before a packet socket sees the frame and tells it beside; offsets in the
//! virtio-net header count without it. On the way out the tag is ours to insert, and the offsets are moved.

use std::io;
use std::os::fd::BorrowedFd;

use socket2::{SockFilter, SockRef};

/// Octets of a tag: its Ethernet type, then priority and number.
pub(crate) const TAG: usize = 4;
const ETHERTYPE: [u8; 2] = [0x81, 0x00];
/// The number in what a tag says.
pub(crate) const NUMBER: u16 = 0x0fff;
/// More sub-ports of one interface, and their frames reach the parent's socket as well, which drops them.
const MOST: usize = 1000;

// From the kernel's uapi linux/filter.h and linux/bpf_common.h.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const TAG_NUMBER: u32 = 0xffff_f000 + 44;
const TAG_IS_THERE: u32 = 0xffff_f000 + 48;
const WHOLE: u32 = u32::MAX;

/// One instruction: operation, jumps, operand.
pub(crate) type Instruction = (u16, u8, u8, u32);

/// What stands between the addresses and the Ethernet type.
pub(crate) fn tag(number: u16) -> [u8; TAG] {
    let [hi, lo] = (number & NUMBER).to_be_bytes();
    [ETHERTYPE[0], ETHERTYPE[1], hi, lo]
}

/// Lets only frames with this tag into a socket.
pub(crate) fn accept_only(socket: BorrowedFd<'_>, number: u16) -> io::Result<()> {
    attach(socket, &sub_port(number))
}

/// Keeps frames with these tags out of a socket, and lets all others in.
pub(crate) fn leave_to_others(socket: BorrowedFd<'_>, numbers: &[u16]) -> io::Result<()> {
    attach(socket, &parent(numbers))
}

fn attach(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let instruction = |(code, jt, jf, k): &Instruction| SockFilter::new(*code, *jt, *jf, *k);
    let program: Vec<SockFilter> = program.iter().map(instruction).collect();
    SockRef::from(&socket).attach_filter(&program)
}

fn sub_port(number: u16) -> Vec<Instruction> {
    vec![
        (LOAD, 0, 0, TAG_IS_THERE),
        (JUMP_IF_EQUAL, 3, 0, 0),
        (LOAD, 0, 0, TAG_NUMBER),
        (AND, 0, 0, NUMBER.into()),
        (JUMP_IF_EQUAL, 1, 0, number.into()),
        (RETURN, 0, 0, 0),
        (RETURN, 0, 0, WHOLE),
    ]
}

fn parent(numbers: &[u16]) -> Vec<Instruction> {
    let mut program = vec![
        (LOAD, 0, 0, TAG_IS_THERE),
        (JUMP_IF_EQUAL, 0, 1, 0),
        (RETURN, 0, 0, WHOLE),
        (LOAD, 0, 0, TAG_NUMBER),
        (AND, 0, 0, NUMBER.into()),
    ];
    for number in numbers.iter().take(MOST) {
        program.extend([(JUMP_IF_EQUAL, 0, 1, (*number).into()), (RETURN, 0, 0, 0)]);
    }
    program.push((RETURN, 0, 0, WHOLE));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does, on a frame with this tag.
    fn runs(program: &[Instruction], tag: Option<u16>) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let (operation, yes, no, operand) = program[at];
            at += 1;
            match operation {
                LOAD if operand == TAG_IS_THERE => value = u32::from(tag.is_some()),
                LOAD if operand == TAG_NUMBER => value = tag.unwrap_or(0).into(),
                AND => value &= operand,
                JUMP_IF_EQUAL => at += usize::from(if value == operand { yes } else { no }),
                RETURN => return operand,
                other => panic!("operation {other}"),
            }
        }
    }

    #[test]
    fn each_frame_enters_one_socket() {
        let numbers: Vec<u16> = (100..200).collect();
        let parent = parent(&numbers);
        assert_eq!(runs(&parent, None), WHOLE);
        for tag in [0, 1, 99, 200, 4095, 0xe000] {
            assert_eq!(runs(&parent, Some(tag)), WHOLE, "{tag}: the parent drops it by name");
        }
        for number in numbers {
            // The priority is no part of the number.
            for tag in [number, number | 0xe000] {
                assert_eq!(runs(&parent, Some(tag)), 0, "{tag}");
                assert_eq!(runs(&sub_port(number), Some(tag)), WHOLE, "{tag}");
                assert_eq!(runs(&sub_port(number + 1), Some(tag)), 0, "{tag}");
            }
            assert_eq!(runs(&sub_port(number), None), 0);
        }
    }

    #[test]
    fn programs_stay_within_what_the_kernel_takes() {
        let numbers: Vec<u16> = (1..4095).collect();
        assert!(parent(&numbers).len() <= 4096);
    }

    #[test]
    fn a_tag_has_its_number_and_no_priority() {
        assert_eq!(tag(101), [0x81, 0, 0, 101]);
        assert_eq!(tag(0xf065), [0x81, 0, 0, 0x65]);
    }
}
