//! The CNI specification as a numbered checklist that any plugin can be held against: given a program, its configuration
//! and, where it needs one, its daemon. Every MUST and SHOULD of specification 1.1.0 that a plugin can be asked for from
//! outside, and what runtimes rely on beside.
//!
//! ```text
//!   I invocation   F configuration   E errors   A ADD   D DEL   C CHECK   G GC   S STATUS   V VERSION   R results, by version
//! ```
//! Each item calls the plugin as a runtime does, in namespaces of its own, looks at what the kernel then has, and cleans
//! up. What a plugin cannot be asked (GC of one that ends at 1.0.0) is not applicable, and says why.
//! `cargo run -p vrouter-tests --bin cni-checklist -- --plugin ptp` prints the table for any plugin.

mod add;
mod check;
mod configuration;
mod del;
mod gc;
mod invocation;
mod results;
mod status;
mod subject;
mod version;

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

pub use subject::Subject;

/// How much the specification wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It must be so.
    Must,
    /// It should be so, or runtimes rely on it.
    Should,
}

/// Why an item is not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The plugin does otherwise.
    Fails(String),
    /// The plugin cannot be asked.
    NotApplicable(String),
}

impl From<String> for Fault {
    fn from(why: String) -> Fault {
        Fault::Fails(why)
    }
}

/// What one check comes to.
pub type Checked = Result<(), Fault>;

/// One item.
#[derive(Clone, Copy)]
pub struct Item {
    /// Its number, for names of tests.
    pub id: &'static str,
    /// What the specification says.
    pub clause: &'static str,
    /// How much it wants it.
    pub level: Level,
    /// Tries it.
    pub check: fn(&Subject<'_>) -> Checked,
}

/// What one item came to.
#[derive(Debug, Clone)]
pub struct Line {
    /// The item's number.
    pub id: &'static str,
    /// What the specification says.
    pub clause: &'static str,
    /// How much it wants it.
    pub level: Level,
    /// What came of it.
    pub checked: Checked,
}

/// A plugin held against all items.
#[derive(Debug, Clone)]
pub struct Score {
    /// The plugin.
    pub plugin: String,
    /// All items in order.
    pub lines: Vec<Line>,
}

/// An item that must be.
const fn must(id: &'static str, clause: &'static str, check: fn(&Subject<'_>) -> Checked) -> Item {
    Item { id, clause, level: Level::Must, check }
}

/// An item that should be.
const fn should(id: &'static str, clause: &'static str, check: fn(&Subject<'_>) -> Checked) -> Item {
    Item { id, clause, level: Level::Should, check }
}

/// All items, in order of their numbers.
pub fn items() -> Vec<Item> {
    [
        invocation::ITEMS,
        configuration::ITEMS,
        add::ITEMS,
        del::ITEMS,
        check::ITEMS,
        gc::ITEMS,
        status::ITEMS,
        version::ITEMS,
        results::ITEMS,
    ]
    .concat()
}

/// Holds a plugin against all items.
pub fn run(subject: &Subject<'_>) -> Score {
    let line = |item: Item| Line {
        id: item.id,
        clause: item.clause,
        level: item.level,
        checked: (item.check)(subject),
    };
    Score { plugin: subject.name().to_owned(), lines: items().into_iter().map(line).collect() }
}

impl Score {
    /// How many items of a level are fulfilled, and of how many that apply.
    pub fn of(&self, level: Level) -> (usize, usize) {
        let applies =
            |line: &&Line| line.level == level && !matches!(line.checked, Err(Fault::NotApplicable(_)));
        let lines: Vec<_> = self.lines.iter().filter(applies).collect();
        (lines.iter().filter(|line| line.checked.is_ok()).count(), lines.len())
    }

    /// Items that are not fulfilled.
    pub fn failures(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| matches!(line.checked, Err(Fault::Fails(_))))
    }

    /// In one line.
    pub fn summary(&self) -> String {
        let ((must, musts), (should, shoulds)) = (self.of(Level::Must), self.of(Level::Should));
        let rest = self.lines.len() - musts - shoulds;
        format!(
            "{}: MUST {must} of {musts}, SHOULD {should} of {shoulds}, not applicable {rest}",
            self.plugin
        )
    }

    /// As people read it: a line for each item, and why where it is not fulfilled.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let level = if line.level == Level::Must { "MUST" } else { "SHOULD" };
            let (mark, why) = match &line.checked {
                Ok(()) => ("pass", String::new()),
                Err(Fault::Fails(why)) => ("FAIL", format!("\n{:26}{why:.600}", "")),
                Err(Fault::NotApplicable(why)) => ("n/a", format!("  ({why})")),
            };
            let _ = writeln!(text, "{mark:4}  {:6}  {level:6}    {}{why}", line.id, line.clause);
        }
        let _ = writeln!(text, "{}", self.summary());
        text
    }
}

/// What a reference plugin is configured with to be held against the checklist; its leases lie in a directory.
pub fn reference_configuration(plugin: &str, leases: &Path) -> Option<Value> {
    let ipam = json!({ "type": "host-local", "dataDir": leases, "ranges": [[{ "subnet": "10.97.0.0/24" }]],
                       "routes": [{ "dst": "0.0.0.0/0" }] });
    match plugin {
        "ptp" => Some(json!({ "type": "ptp", "ipam": ipam })),
        "bridge" => Some(json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam })),
        _ => None,
    }
}

/// Refuses what is not so, with a sentence.
fn want(holds: bool, why: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Fault::Fails(why())) }
}

/// The plugin cannot be asked.
fn inapplicable(why: &str) -> Fault {
    Fault::NotApplicable(why.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_are_unique_and_every_chapter_is_there() {
        let items = items();
        let ids: BTreeSet<_> = items.iter().map(|item| item.id).collect();
        assert_eq!(ids.len(), items.len());
        let chapters: BTreeSet<_> = ids.iter().filter_map(|id| id.chars().next()).collect();
        assert_eq!(chapters.into_iter().collect::<String>(), "ACDEFGIRSV");
    }

    #[test]
    fn what_does_not_apply_counts_nowhere() {
        let line = |level, checked| Line { id: "X", clause: "c", level, checked };
        let score = Score {
            plugin: "p".to_owned(),
            lines: vec![
                line(Level::Must, Ok(())),
                line(Level::Must, Err(Fault::Fails("why".to_owned()))),
                line(Level::Should, Err(inapplicable("none"))),
            ],
        };
        assert_eq!(score.summary(), "p: MUST 1 of 2, SHOULD 0 of 0, not applicable 1");
        assert!(score.table().contains("FAIL") && score.table().contains("why"));
    }
}
