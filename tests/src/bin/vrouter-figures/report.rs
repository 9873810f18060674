//! Medians, ratios, and the table a person reads.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::goals::Aim;

/// Everything measured so far.
#[derive(Default)]
pub(crate) struct Figures(Map<String, Value>);

impl Figures {
    /// Prints one figure and keeps it.
    pub(crate) fn single(&mut self, what: &str, value: f64, unit: &str) {
        println!("{what:44} {value:>10.2} {unit}");
        self.0.insert(what.to_owned(), json!({ "value": value, "unit": unit }));
    }

    /// Prints ours beside a peer's, medians with the range, and the ratio.
    pub(crate) fn beside(&mut self, what: &str, unit: &str, ours: &[f64], peer: (&str, &[f64])) {
        let (name, theirs) = peer;
        let ratio = median(ours) / median(theirs);
        println!(
            "{what:32} {:>22} {unit}   {name} {:>22} {unit}   ratio {ratio:.2}",
            spread(ours),
            spread(theirs)
        );
        self.0.insert(
            format!("{what} / {name}"),
            json!({ "unit": unit, "ours": ours, "peer": theirs, "peerName": name, "ratio": ratio }),
        );
    }

    /// Prints one contender's runs, and keeps them.
    pub(crate) fn series(&mut self, key: &str, name: &str, unit: &str, runs: &[f64], p99: f64, cpu: f64) {
        let p99_words = if p99 > 0.0 { format!("   p99 {p99:.1} {unit}") } else { String::new() };
        println!("  {name:18} {:>26} {unit:6} {cpu:>6.2} CPU-seconds{p99_words}", spread(runs));
        self.0.insert(
            key.to_owned(),
            json!({ "unit": unit, "runs": runs, "median": median(runs), "p99": p99, "cpuSeconds": cpu }),
        );
    }

    /// Prints a ratio of medians beside what is asked of it, and keeps it.
    pub(crate) fn ratio(&mut self, key: &str, ours: (&str, &[f64]), peer: (&str, &[f64]), aim: Option<Aim>) {
        let ratio = median(ours.1) / median(peer.1);
        let asked = aim.map_or(String::new(), |aim| {
            let (sign, verdict) = (if aim.less { "≤" } else { "≥" }, aim.judge(ratio));
            format!("   floor {sign} {:.2}, goal {sign} {:.2}: {verdict}", aim.floor, aim.goal)
        });
        println!("    {} / {}: {ratio:.2}{asked}", ours.0, peer.0);
        self.0.insert(
            format!("{key}, {} / {}", ours.0, peer.0),
            json!({
                "ratio": ratio, "floor": aim.map(|aim| aim.floor), "goal": aim.map(|aim| aim.goal),
                "verdict": aim.map(|aim| aim.judge(ratio)),
            }),
        );
    }

    /// Writes all of it as one JSON object.
    pub(crate) fn save(&self, path: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(&self.0).map_err(std::io::Error::other)?;
        std::fs::write(path, text)
    }
}

/// The middle value; zero of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({least:.2}–{most:.2})", median(values))
}
