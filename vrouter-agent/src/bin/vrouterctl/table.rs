//! Aligned columns: two spaces between, numbers to the right, nothing behind the last column.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;

/// Which side of its column a cell stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Columns with their headings. A heading that begins with `>` stands, with its column, to the right.
    pub(crate) fn new<const N: usize>(headings: [&'static str; N]) -> Table {
        let column = |heading: &'static str| match heading.strip_prefix('>') {
            Some(heading) => (heading, Side::Right),
            None => (heading, Side::Left),
        };
        Table { columns: headings.into_iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row. Empty cells print as `-`, so that columns can be counted.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len(), "a row has as many cells as there are columns");
        let dash = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(dash).collect());
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, headings first.
    pub(crate) fn render(&self) -> String {
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        let lines = || std::iter::once(&headings).chain(&self.rows);
        let width = |at: usize| {
            lines().filter_map(|cells| cells.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for cells in lines() {
            let mut line = String::new();
            for ((cell, width), (_, side)) in cells.iter().zip(&widths).zip(&self.columns) {
                // Writing to a String cannot fail.
                let _ = match side {
                    Side::Left => write!(line, "{cell:<width$}  "),
                    Side::Right => write!(line, "{cell:>width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// As FRR prints times: `00:05:01` below a day, `3d04h05m` below a week, `02w3d04h` beyond.
pub(crate) fn duration(msec: u64) -> String {
    let seconds = msec / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match days {
        0 => format!("{hours:02}:{:02}:{:02}", minutes % 60, seconds % 60),
        1..7 => format!("{days}d{:02}h{:02}m", hours % 24, minutes % 60),
        _ => format!("{:02}w{}d{:02}h", days / 7, days % 7, hours % 24),
    }
}

/// A rate as people read it: three digits that count.
pub(crate) fn per_second(rate: f64) -> String {
    let (scaled, unit) = match rate {
        ..1e3 => (rate, ""),
        ..1e6 => (rate / 1e3, "k"),
        ..1e9 => (rate / 1e6, "M"),
        _ => (rate / 1e9, "G"),
    };
    if scaled >= 100.0 || scaled.fract() == 0.0 {
        format!("{scaled:.0}{unit}")
    } else {
        format!("{scaled:.1}{unit}")
    }
}

/// Several values in one cell.
pub(crate) fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}

/// A value that may be absent.
pub(crate) fn maybe<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The entries of a map in the order of what their keys mean: 10.0.0.2/32 before 10.0.0.10/32. Keys that are no `K`
/// come first, as they are.
pub(crate) fn in_order<K: FromStr + Ord, V>(map: &BTreeMap<String, V>) -> Vec<(&String, &V)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_cached_key(|(key, _)| key.parse::<K>().ok());
    entries
}

#[cfg(test)]
mod tests {
    use vrouter_types::Prefix;

    use super::*;

    #[test]
    fn keys_are_sorted_by_what_they_mean() {
        let map = ["10.0.0.10/32", "10.0.0.2/32", "fd00::/8", "9.0.0.0/8"].map(|key| (key.to_owned(), ()));
        let keys: Vec<_> =
            in_order::<Prefix, _>(&map.into()).into_iter().map(|(key, ())| key.clone()).collect();
        assert_eq!(keys, ["9.0.0.0/8", "10.0.0.2/32", "10.0.0.10/32", "fd00::/8"]);
    }

    #[test]
    fn columns_are_aligned_and_lines_end_clean() {
        let mut table = Table::new(["Name", ">Count", "Note"]);
        table.row(["a".into(), "1".into(), String::new()]);
        table.row(["grün".into(), "1000000".into(), "x".into()]);
        let expected = "Name    Count  Note\na           1  -\ngrün  1000000  x\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn rates_have_three_digits_and_a_unit() {
        for (rate, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (12.0, "12"),
            (999.4, "999"),
            (1500.0, "1.5k"),
            (123_456.0, "123k"),
            (4_200_000.0, "4.2M"),
            (9_870_000_000.0, "9.9G"),
        ] {
            assert_eq!(per_second(rate), text);
        }
    }

    #[test]
    fn times_read_as_frr_prints_them() {
        for (seconds, text) in [
            (0, "00:00:00"),
            (301, "00:05:01"),
            (86_399, "23:59:59"),
            (86_400, "1d00h00m"),
            (7 * 86_400 - 1, "6d23h59m"),
            (7 * 86_400, "01w0d00h"),
            (10 * 86_400 + 3600, "01w3d01h"),
        ] {
            assert_eq!(duration(seconds * 1000), text);
        }
    }
}
