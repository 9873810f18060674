//! Medians, ratios, and the tables a person reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::contender::Contender;
use crate::recipe::Shape;
use crate::scenario::{Load, Narrow, Targets};

/// A column: its heading, the figure, how many decimals; and whether less is better, so that it has a ratio.
type Column<T> = (&'static str, fn(&T) -> f64, usize, bool);

const LOAD: [Column<Load>; 12] = [
    ("conv s", |load| load.seconds, 3, true),
    ("first s", |load| load.first_seconds, 3, false),
    ("CPU s", |load| load.cpu_seconds, 3, true),
    ("idle MB", |load| load.idle_octets / 1e6, 1, true),
    ("RSS MB", |load| load.loaded_octets / 1e6, 1, true),
    ("B/route", |load| load.octets_per_route, 0, true),
    ("msgs out", |load| load.messages_out, 0, true),
    ("kB out", |load| load.octets_out / 1e3, 1, true),
    ("gone s", |load| load.withdraw_seconds, 3, true),
    ("gone msgs", |load| load.withdraw_messages, 0, true),
    ("after MB", |load| load.withdrawn_octets / 1e6, 1, true),
    ("foreign %", |load| load.foreign_percent, 0, false),
];

const NARROW: [Column<Narrow>; 3] = [
    ("seconds", |run| run.seconds, 2, true),
    ("msgs out", |run| run.messages_out, 0, true),
    ("kB out", |run| run.octets_out / 1e3, 1, true),
];

const TARGETS: [Column<Targets>; 4] = [
    ("load s", |run| run.load_seconds, 2, true),
    ("withdraw s", |run| run.withdraw_seconds, 3, true),
    ("return s", |run| run.return_seconds, 3, true),
    ("CPU s", |run| run.cpu_seconds, 2, true),
];

/// What one scenario brought, by speaker.
pub(crate) type Outcomes<T> = BTreeMap<Contender, Vec<Result<T, String>>>;

/// Everything measured, as JSON: in its file after every table, so that a run that is cut short is not lost.
pub(crate) struct Report {
    path: PathBuf,
    figures: Map<String, Value>,
}

impl Report {
    /// Makes the file's folder.
    pub(crate) fn new(path: &Path) -> std::io::Result<Report> {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        Ok(Report { path: path.to_owned(), figures: Map::new() })
    }

    pub(crate) fn note(&mut self, key: &str, value: Value) {
        self.figures.insert(key.to_owned(), value);
        let saved = std::fs::write(&self.path, format!("{:#}\n", Value::from(self.figures.clone())));
        saved.unwrap_or_else(|error| panic!("write {}: {error}", self.path.display()));
    }

    pub(crate) fn load(&mut self, role: &str, shape: Shape, routes: u32, outcomes: &Outcomes<Load>) {
        self.table(&format!("{role}, {routes} routes, {}", shape.name()), &LOAD, outcomes);
    }

    pub(crate) fn narrow(&mut self, routes: u32, outcomes: &Outcomes<Narrow>) {
        self.table(&format!("{routes} routes over 64 kbit/s"), &NARROW, outcomes);
    }

    pub(crate) fn targets(&mut self, routes: u32, outcomes: &Outcomes<Targets>) {
        self.table(&format!("2,000 route targets, {routes} routes, five receivers"), &TARGETS, outcomes);
    }

    fn table<T: serde::Serialize>(&mut self, title: &str, columns: &[Column<T>], outcomes: &Outcomes<T>) {
        println!("\n{title}");
        let heads: String = columns.iter().map(|(head, ..)| format!("{head:>11}")).collect();
        println!("{:12}{heads}", "");
        let mut medians: BTreeMap<Contender, Vec<f64>> = BTreeMap::new();
        for (contender, runs) in outcomes {
            let good: Vec<&T> = runs.iter().flatten().collect();
            for fault in runs.iter().filter_map(|run| run.as_ref().err()) {
                println!("{:12} {fault}", contender.name());
            }
            if good.is_empty() {
                continue;
            }
            let row: Vec<f64> =
                columns.iter().map(|(_, figure, ..)| median(good.iter().map(|run| figure(run)))).collect();
            let cells =
                row.iter().zip(columns).map(|(value, (_, _, decimals, _))| format!("{value:>11.decimals$}"));
            println!("{:12}{}", contender.name(), cells.collect::<String>());
            medians.insert(*contender, row);
        }
        let ratios = ratios(columns, &medians);
        if !ratios.is_empty() {
            println!(
                "{:12}{}",
                "ours/best",
                ratios.iter().map(|ratio| ratio_cell(*ratio)).collect::<String>()
            );
        }
        let runs = outcomes.iter().map(|(contender, runs)| {
            let runs = runs.iter().map(|run| match run {
                Ok(run) => json!(run),
                Err(fault) => json!({ "fault": fault }),
            });
            (contender.name().to_owned(), Value::from(runs.collect::<Vec<_>>()))
        });
        self.note(title, json!({ "runs": runs.collect::<Map<_, _>>(), "ratios": named(columns, &ratios) }));
    }
}

/// Ours by the best of the others, per column that less is better in.
fn ratios<T>(columns: &[Column<T>], medians: &BTreeMap<Contender, Vec<f64>>) -> Vec<Option<f64>> {
    let Some(ours) = medians.get(&Contender::Vrouter).filter(|_| medians.len() > 1) else {
        return Vec::new();
    };
    let others = || medians.iter().filter(|(contender, _)| **contender != Contender::Vrouter);
    let ratio = |index: usize| {
        let best = others().filter_map(|(_, row)| row.get(index)).copied().fold(f64::INFINITY, f64::min);
        ours.get(index).map(|own| own / best).filter(|ratio| ratio.is_finite())
    };
    columns
        .iter()
        .enumerate()
        .map(|(index, (.., is_less_better))| is_less_better.then(|| ratio(index)).flatten())
        .collect()
}

fn ratio_cell(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| format!("{:>11}", "-"), |ratio| format!("{ratio:>11.2}"))
}

fn named<T>(columns: &[Column<T>], ratios: &[Option<f64>]) -> Value {
    let pairs = columns
        .iter()
        .zip(ratios)
        .filter_map(|((head, ..), ratio)| Some(((*head).to_owned(), json!((*ratio)?))));
    Value::Object(pairs.collect())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
