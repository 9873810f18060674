//! The fuzz targets for a few seconds, without nightly: every collected message as it is, damaged and cut, under every
//! kind of session; and neighbors with arbitrary lives.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

#[path = "../fuzz/harness.rs"]
mod harness;

/// xorshift64*: the same octets in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap()
    }

    fn octet(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn damage(&mut self, octets: &[u8]) -> Vec<u8> {
        let mut damaged = octets.to_vec();
        for _ in 0..self.next() % 4 {
            if !damaged.is_empty() {
                let at = self.next() % damaged.len();
                match self.next() % 4 {
                    0 => damaged[at] = self.octet(),
                    1 => damaged[at] ^= 1 << (self.next() % 8),
                    2 => drop(damaged.remove(at)),
                    _ => damaged.insert(at, self.octet()),
                }
            }
        }
        if self.next().is_multiple_of(8) {
            damaged.truncate(self.next() % (damaged.len() + 1));
        }
        damaged
    }
}

/// Every message of the collected vectors; a few of our own where there are none.
fn messages() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let folder = root.join("../shared/vectors");
    let mut messages = Vec::new();
    for name in ["rfc7606", "updates", "opens", "malformed", "rtc"] {
        let Ok(text) = std::fs::read_to_string(folder.join(format!("{name}.json"))) else {
            eprintln!("SKIPPED: no {name}.json in {}", folder.display());
            continue;
        };
        let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        for key in ["message_hex", "update_hex", "baseline_hex"] {
            messages.extend(cases.iter().filter_map(|case| hex(case[key].as_str()?)));
        }
    }
    let plain = [0xff; 16].into_iter().chain([0, 23, 2, 0, 0, 0, 0]);
    messages.push(plain.collect());
    messages
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).ok());
    digits.map(|two| u8::from_str_radix(two?, 16).ok()).collect()
}

#[test]
fn no_message_breaks_the_codec() {
    let (messages, mut chance) = (messages(), Chance(1));
    for message in &messages {
        for _ in 0..8 {
            let damaged = chance.damage(message);
            harness::message(&[&[chance.octet()], &damaged[..]].concat());
        }
    }
}

#[test]
fn no_update_breaks_the_rib_whatever_was_agreed() {
    let (messages, mut chance) = (messages(), Chance(2));
    for _ in 0..1000 {
        let mut input = vec![chance.octet()];
        for _ in 0..1 + chance.next() % 6 {
            let message = &messages[chance.next() % messages.len()];
            let body = chance.damage(message.get(19..).unwrap_or_default());
            let length = u16::try_from(body.len().min(0x1ff)).unwrap();
            input.extend(length.to_be_bytes());
            input.extend(&body[..usize::from(length)]);
        }
        harness::update(&input);
    }
}

#[test]
fn no_life_breaks_a_neighbor() {
    let (messages, mut chance) = (messages(), Chance(3));
    for _ in 0..1000 {
        let mut input = vec![chance.octet()];
        for _ in 0..chance.next() % 60 {
            let step = chance.octet();
            input.push(step);
            if step % 16 >= 14 {
                let message = &messages[chance.next() % messages.len()];
                let octets = chance.damage(if step % 16 == 14 {
                    message.get(19..).unwrap_or_default()
                } else {
                    message
                });
                let length = u8::try_from(octets.len().min(255)).unwrap();
                input.push(length);
                input.extend(&octets[..usize::from(length)]);
            } else if chance.next().is_multiple_of(3) {
                // The way to an established session, so that lives are not all short.
                input.extend([0, 3, 11, 12]);
            }
        }
        harness::neighbor(&input);
    }
}
