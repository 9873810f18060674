//! The header of a DNS message (RFC 1035 §4.1.1), and whether an answer is one.

pub(super) const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const SERVER_FAILURE: u8 = 2;
const LONGEST_NAME: usize = 255;

/// A standard query with one question, and room for it.
pub(super) fn is_query(message: &[u8]) -> bool {
    let Some(header) = message.first_chunk::<HEADER>() else { return false };
    header[2] & (RESPONSE | OPCODE) == 0 && header[4..6] == [0, 1] && question(message).is_some()
}

/// Whether this is the answer to that query: number and question are the same.
pub(super) fn answers(answer: &[u8], query: &[u8]) -> bool {
    let Some(header) = answer.first_chunk::<HEADER>() else { return false };
    let same_question = match (question(answer), question(query)) {
        (Some(answered), Some(asked)) => answered.eq_ignore_ascii_case(asked),
        // A server that could not read the question does not repeat it.
        (None, Some(_)) => header[4..6] == [0, 0],
        _ => false,
    };
    header[2] & RESPONSE != 0 && answer.get(..2) == query.get(..2) && same_question
}

/// The number of a message.
pub(super) fn number(message: &[u8]) -> [u8; 2] {
    message.first_chunk().copied().unwrap_or_default()
}

/// The same message with another number.
pub(super) fn numbered(message: &[u8], number: [u8; 2]) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(place) = message.first_chunk_mut() {
        *place = number;
    }
    message
}

/// What is said where nobody answers: the question, and that it failed.
pub(super) fn failure(query: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER];
    header[..2].copy_from_slice(&number(query));
    header[2] = RESPONSE | query.get(2).copied().unwrap_or(0) & (OPCODE | RECURSION_DESIRED);
    header[3] = RECURSION_AVAILABLE | SERVER_FAILURE;
    header[5] = 1;
    [&header, question(query).unwrap_or_default()].concat()
}

/// The one question: a name that is not compressed, type and class.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let behind = message.get(HEADER..)?;
    let mut at = 0;
    loop {
        match behind.get(at)? {
            0 => break,
            label @ 1..64 => at += 1 + usize::from(*label),
            _ => return None,
        }
        if at >= LONGEST_NAME {
            return None;
        }
    }
    behind.get(..at + 5)
}

#[cfg(test)]
pub(super) fn query(number: u16, name: &str) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message[..2].copy_from_slice(&number.to_be_bytes());
    message[2] = RECURSION_DESIRED;
    message[5] = 1;
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_query_with_one_whole_question_is_one() {
        let good = query(7, "a.example");
        assert!(is_query(&good));
        assert!(is_query(&[&good[..], &[1; 40]].concat()), "with more behind it, as EDNS");
        for len in 0..good.len() {
            assert!(!is_query(&good[..len]), "{len}");
        }
        for (at, value) in [(2, 0x81), (2, 0x09), (5, 0), (5, 2), (12, 64), (12, 0xc0), (12, 200)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(!is_query(&bad), "{at} {value}");
        }
        let long = ["abcdefghijklmnopqrstuvwxyz0123"; 9].join(".");
        assert!(!is_query(&query(7, &long)));
    }

    #[test]
    fn an_answer_repeats_number_and_question() {
        let asked = query(7, "a.example");
        let mut good = asked.clone();
        good[2] |= RESPONSE;
        assert!(answers(&good, &asked));
        assert!(!answers(&asked, &asked), "a query is no answer");
        assert!(!answers(&numbered(&good, [9, 9]), &asked));
        let mut other = query(7, "b.example");
        other[2] |= RESPONSE;
        assert!(!answers(&other, &asked));
        let mut loud = query(7, "A.EXAMPLE");
        loud[2] |= RESPONSE;
        assert!(answers(&loud, &asked));
        assert!(
            answers(&[0, 7, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0], &asked),
            "a format error without a question"
        );
    }

    #[test]
    fn a_failure_answers_its_question() {
        let asked = query(7, "a.example");
        let failed = failure(&asked);
        assert!(answers(&failed, &asked));
        assert_eq!(failed[3] & 0x0f, SERVER_FAILURE);
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(a in proptest::collection::vec(any::<u8>(), 0..80), b in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (is_query(&a), answers(&a, &b), failure(&a), numbered(&a, [1, 2]), number(&a));
        }
    }
}
