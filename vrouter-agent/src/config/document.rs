//! A TOML document, read table by table: every mistake is noted with its line and reading goes on, so that one run
//! names them all.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Everything that is wrong with a configuration file, in the order of its lines. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: PathBuf,
    errors: Vec<ConfigError>,
}

/// One mistake: where it is, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl ConfigErrors {
    /// The mistakes.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{}: {}", self.file.display(), error.line, error.message)?;
        }
        Ok(())
    }
}

/// The text and the mistakes found in it so far.
pub(super) struct Document<'t> {
    text: &'t str,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'t> Document<'t> {
    pub(super) fn new(text: &'t str) -> Document<'t> {
        Document { text, errors: RefCell::new(Vec::new()) }
    }

    /// The top of the document. Where TOML itself is broken, that is the mistake, and what could be read is read.
    pub(super) fn parse(&self) -> Spanned<DeTable<'t>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let hint = if error.message().is_empty() { "not TOML" } else { error.message() };
            self.error(error.span().unwrap_or(0..0), hint.to_owned());
        }
        table
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        1 + self.text.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
    }

    pub(super) fn error(&self, span: Range<usize>, message: String) {
        self.errors.borrow_mut().push(ConfigError { line: self.line(&span), message });
    }

    /// The mistakes, or nothing if there are none.
    pub(super) fn finish(self, file: &Path) -> Result<(), ConfigErrors> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| error.line);
        errors.dedup();
        if errors.is_empty() { Ok(()) } else { Err(ConfigErrors { file: file.to_owned(), errors }) }
    }
}

/// One table, and which of its keys have been asked for: those that nobody asked for are unknown.
pub(super) struct Table<'d, 't> {
    document: &'d Document<'t>,
    entries: &'d DeTable<'t>,
    name: &'static str,
    span: Range<usize>,
    known: RefCell<Vec<&'static str>>,
    broken: Cell<bool>,
}

impl<'d, 't> Table<'d, 't> {
    /// `name` is what messages call it, like `[agent]`.
    pub(super) fn new(
        document: &'d Document<'t>,
        entries: &'d DeTable<'t>,
        name: &'static str,
        span: Range<usize>,
    ) -> Table<'d, 't> {
        Table { document, entries, name, span, known: RefCell::new(Vec::new()), broken: Cell::new(false) }
    }

    /// Where it begins, for messages about what it lacks.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Where the key's value is, or else the table.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        self.entries.get(key).map_or_else(|| self.span(), Spanned::span)
    }

    /// The line of that.
    pub(super) fn line_of(&self, key: &str) -> usize {
        self.document.line(&self.span_of(key))
    }

    /// Whether a value could not be read, so that what depends on it is not worth a second message.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    pub(super) fn error(&self, span: Range<usize>, message: String) {
        self.broken.set(true);
        self.document.error(span, message);
    }

    /// A string.
    pub(super) fn text(&self, key: &'static str) -> Option<&'d str> {
        self.read(key, "a string", |value| value.as_str())
    }

    /// A truth value.
    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        self.read(key, "true or false", DeValue::as_bool)
    }

    /// A number within bounds.
    pub(super) fn number(&self, key: &'static str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        self.read(key, &wanted, |value| {
            let digits = value.as_integer()?;
            let number = u32::from_str_radix(digits.as_str(), digits.radix()).ok()?;
            range.contains(&number).then_some(number)
        })
    }

    /// A list of numbers within bounds. Absent: `None`.
    pub(super) fn numbers(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<Vec<u32>> {
        let wanted = format!("a list of numbers from {} to {}", range.start(), range.end());
        self.read(key, &wanted, |value| {
            let number = |item: &toml::Spanned<DeValue<'_>>| {
                let digits = item.get_ref().as_integer()?;
                let number = u32::from_str_radix(digits.as_str(), digits.radix()).ok()?;
                range.contains(&number).then_some(number)
            };
            value.as_array()?.iter().map(number).collect()
        })
    }

    /// A string that a type reads; its error says what the type wants.
    pub(super) fn parsed<T>(&self, key: &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let text = self.text(key)?;
        self.parse_text(key, text, self.span_of(key))
    }

    /// A list of strings with their places. Absent: `None`.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<Spanned<&'d str>>> {
        let items = self.read(key, "a list of strings, like [\"…\"]", DeValue::as_array)?;
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push(Spanned::new(item.span(), text)),
                None => self.error(
                    item.span(),
                    format!("{key} in {} must hold strings only, not {}", self.name, kind(item.get_ref())),
                ),
            }
        }
        Some(texts)
    }

    /// A list of strings that a type reads, with their places.
    pub(super) fn parsed_list<T>(&self, key: &'static str) -> Option<Vec<Spanned<T>>>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let texts = self.texts(key)?;
        let read = |text: Spanned<&str>| {
            let span = text.span();
            self.parse_text(key, text.into_inner(), span.clone()).map(|value| Spanned::new(span, value))
        };
        Some(texts.into_iter().filter_map(read).collect())
    }

    /// A table inside.
    pub(super) fn table(&self, key: &'static str, name: &'static str) -> Option<Table<'d, 't>> {
        let entries = self.read(key, &format!("a table, written {name}"), DeValue::as_table)?;
        Some(Table::new(self.document, entries, name, self.span_of(key)))
    }

    /// A list of tables inside.
    pub(super) fn tables(&self, key: &'static str, name: &'static str) -> Vec<Table<'d, 't>> {
        let wanted = format!("a list of tables, each written {name}");
        let Some(items) = self.read(key, &wanted, DeValue::as_array) else { return Vec::new() };
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(entries) => tables.push(Table::new(self.document, entries, name, item.span())),
                None => self.error(item.span(), format!("{key} must be {wanted}")),
            }
        }
        tables
    }

    /// Notes the keys that nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, value) in self.entries.iter().filter(|(key, _)| !known.contains(&&**key.get_ref())) {
            let mut message = format!("unknown key {:?} in {}", key.get_ref(), self.name);
            match known.iter().find(|known| is_close(known, key.get_ref())) {
                Some(close) => message.push_str(&format!("; did you mean {close:?}?")),
                None => message.push_str(&format!("; known keys: {}", known.join(", "))),
            }
            let place = if key.span().is_empty() { value.span() } else { key.span() };
            self.document.error(place, message);
        }
    }

    fn read<T>(
        &self,
        key: &'static str,
        wanted: &str,
        read: impl Fn(&'d DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        self.known.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        let found = read(value.get_ref());
        if found.is_none() {
            let message = format!("{key} in {} must be {wanted}, not {}", self.name, kind(value.get_ref()));
            self.error(value.span(), message);
        }
        found
    }

    fn parse_text<T>(&self, key: &str, text: &str, span: Range<usize>) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(span, format!("{key} in {}: {error}", self.name));
                None
            }
        }
    }
}

fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "a string".to_owned(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Whether one mistyped or swapped letter, or `_` for `-`, makes the one out of the other.
fn is_close(known: &str, found: &str) -> bool {
    let (known, found): (Vec<char>, Vec<char>) =
        (known.chars().collect(), found.replace('_', "-").chars().collect());
    let head = known.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let tail = known[head..].iter().rev().zip(found[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    known.len().saturating_sub(head + tail).max(found.len().saturating_sub(head + tail)) <= 2
        && known.len().min(found.len()) >= 2
}
