//! Waiting for something to become true, with a deadline and a sentence that says what was waited for.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// How long labs wait for daemons and sessions unless they say otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until the closure answers `Ok`, and returns what it holds.
///
/// # Panics
/// After the deadline, with what was waited for and the last answer.
pub fn wait_for<T, E: Debug>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if start.elapsed() > deadline => {
                panic!("waited {} s in vain: {what}; last seen: {last:#?}", deadline.as_secs())
            }
            Err(_) => thread::sleep(Duration::from_millis(25)),
        }
    }
}

/// Asks again and again until the closure says `true`.
///
/// # Panics
/// After the deadline, with what was waited for.
pub fn wait_until(what: &str, deadline: Duration, mut ask: impl FnMut() -> bool) {
    wait_for(what, deadline, || if ask() { Ok(()) } else { Err("not yet") });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_returned_once_it_is_there() {
        let mut asked = 0;
        let answer = wait_for("three", PATIENCE, || {
            asked += 1;
            if asked == 3 { Ok(asked) } else { Err(asked) }
        });
        assert_eq!(answer, 3);
    }

    #[test]
    #[should_panic(expected = "in vain: a miracle; last seen: \"none\"")]
    fn a_vain_wait_says_what_for_and_what_was_seen() {
        wait_for("a miracle", Duration::ZERO, || Err::<(), _>("none"));
    }
}
