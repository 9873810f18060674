//! From text to expression, by recursive descent over words. Whatever the text, the work is bounded.

use std::iter::Peekable;
use std::str::FromStr;

use vrouter_types::Label;

use super::{End, Expression, Test};
use crate::packet::{ICMP, ICMPV6, TCP, UDP};

/// Octets of an expression.
pub const MAX_TEXT: usize = 1024;
/// Tests in an expression.
pub const MAX_TESTS: usize = 64;
/// Parentheses and negations inside each other.
pub const MAX_DEPTH: usize = 16;

/// Why an expression is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It is longer than we read.
    #[error("the filter is longer than {MAX_TEXT} octets")]
    TooLong,
    /// It has more tests than a capture may cost.
    #[error("the filter has more than {MAX_TESTS} tests")]
    TooManyTests,
    /// It is nested deeper than a capture may cost.
    #[error("the filter is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// It ends where something must follow.
    #[error("the filter ends where {0} is expected, as in: host 10.0.0.1 and tcp and not port 22")]
    Ends(&'static str),
    /// A word that does not belong there.
    #[error(
        "the filter has {found:?} where {expected} is expected, as in: host 10.0.0.1 and tcp and not port 22"
    )]
    Unexpected {
        /// The word.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
}

const TEST: &str = "a test (host, net, port, tcp, udp, icmp, icmp6, arp, ip, ip6, label)";

pub(super) fn parse(text: &str) -> Result<Expression, FilterError> {
    if text.len() > MAX_TEXT {
        return Err(FilterError::TooLong);
    }
    let mut parser = Parser { words: words(text).peekable(), tests: 0 };
    let expression = parser.expression(0)?;
    match parser.words.next() {
        None => Ok(expression),
        Some(word) => Err(unexpected(word, "\"and\", \"or\" or the end")),
    }
}

/// Words are separated by white space; parentheses and `!` are words wherever they stand.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().flat_map(|chunk| {
        let mut rest = chunk;
        std::iter::from_fn(move || {
            let end = match rest.find(['(', ')', '!']) {
                Some(0) => 1,
                Some(at) => at,
                None => rest.len(),
            };
            let (word, behind) = rest.split_at_checked(end)?;
            rest = behind;
            (!word.is_empty()).then_some(word)
        })
    })
}

fn unexpected(word: &str, expected: &'static str) -> FilterError {
    FilterError::Unexpected { found: word.chars().take(64).collect(), expected }
}

struct Parser<'t, W: Iterator<Item = &'t str>> {
    words: Peekable<W>,
    tests: usize,
}

impl<'t, W: Iterator<Item = &'t str>> Parser<'t, W> {
    fn expression(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut terms = vec![self.term(depth)?];
        while self.words.next_if(|word| matches!(*word, "or" | "||")).is_some() {
            terms.push(self.term(depth)?);
        }
        Ok(if terms.len() == 1 { terms.swap_remove(0) } else { Expression::Any(terms) })
    }

    fn term(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut factors = vec![self.factor(depth)?];
        while self.words.next_if(|word| matches!(*word, "and" | "&&")).is_some() {
            factors.push(self.factor(depth)?);
        }
        Ok(if factors.len() == 1 { factors.swap_remove(0) } else { Expression::All(factors) })
    }

    fn factor(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth >= MAX_DEPTH {
            return Err(FilterError::TooDeep);
        }
        match self.words.next().ok_or(FilterError::Ends(TEST))? {
            "not" | "!" => Ok(Expression::Not(Box::new(self.factor(depth + 1)?))),
            "(" => {
                let inside = self.expression(depth + 1)?;
                match self.words.next() {
                    Some(")") => Ok(inside),
                    Some(word) => Err(unexpected(word, "\"and\", \"or\" or \")\"")),
                    None => Err(FilterError::Ends("\")\"")),
                }
            }
            word => {
                self.tests += 1;
                if self.tests > MAX_TESTS {
                    return Err(FilterError::TooManyTests);
                }
                self.test(word).map(Expression::Test)
            }
        }
    }

    fn test(&mut self, word: &str) -> Result<Test, FilterError> {
        Ok(match word {
            "src" => self.of_end(End::Source, None)?,
            "dst" => self.of_end(End::Destination, None)?,
            "host" | "net" | "port" => self.of_end(End::Either, Some(word))?,
            "tcp" => Test::Protocol(TCP),
            "udp" => Test::Protocol(UDP),
            "icmp" => Test::Protocol(ICMP),
            "icmp6" => Test::Protocol(ICMPV6),
            "arp" => Test::Arp,
            "ip" => Test::Ip,
            "ip6" => Test::Ip6,
            "label" => {
                const WHAT: &str = "a label, from 0 to 1048575";
                let word = self.words.next().ok_or(FilterError::Ends(WHAT))?;
                let label = word.parse().ok().and_then(|label| Label::new(label).ok());
                Test::Label(label.ok_or_else(|| unexpected(word, WHAT))?.value())
            }
            word => return Err(unexpected(word, TEST)),
        })
    }

    fn of_end(&mut self, end: End, word: Option<&str>) -> Result<Test, FilterError> {
        const WHAT: &str = "\"host\", \"net\" or \"port\"";
        let word = match word {
            Some(word) => word,
            None => self.words.next().ok_or(FilterError::Ends(WHAT))?,
        };
        match word {
            "host" => Ok(Test::Host(end, self.value("an address")?)),
            "net" => Ok(Test::Net(end, self.value("a prefix, as 10.0.0.0/8")?)),
            "port" => Ok(Test::Port(end, self.value("a port number")?)),
            word => Err(unexpected(word, WHAT)),
        }
    }

    fn value<T: FromStr>(&mut self, what: &'static str) -> Result<T, FilterError> {
        let word = self.words.next().ok_or(FilterError::Ends(what))?;
        word.parse().map_err(|_| unexpected(word, what))
    }
}
