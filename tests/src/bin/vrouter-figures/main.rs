//! Figures: ours beside the kernel's and the reference plugins' in one interleaved run, medians and ratios.
//!
//! Absolute numbers of a shared machine mean little; the ratio of two things measured within the same minute does. CPU
//! is that of the whole machine, both ends included, from `/proc/stat`.

mod contender;
mod lifecycle;
mod report;
mod throughput;

use std::process::ExitCode;

use clap::Parser;

/// Measures vRouter beside kernel VXLAN and the reference CNI plugins, and prints ratios.
///
/// Needs root, a release build (`cargo figures`), and the Debian packages iproute2 and containernetworking-plugins.
#[derive(Parser)]
#[command(
    name = "vrouter-figures",
    after_help = "Examples:\n  cargo figures\n  cargo figures --runs 9 --only throughput\n  cargo figures --json figures.json"
)]
struct Options {
    /// Interleaved runs; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=99))]
    runs: u16,
    /// Only this part: `size`, `memory`, `add` or `throughput`
    #[arg(long)]
    only: Option<String>,
    /// Also write the figures to this file
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let wanted = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    if cfg!(debug_assertions) {
        eprintln!("vrouter-figures: a debug build: figures mean nothing. Run `cargo figures`.");
        return ExitCode::from(1);
    }
    let mut figures = report::Figures::default();
    if wanted("size") {
        lifecycle::sizes(&mut figures);
    }
    if wanted("memory") {
        lifecycle::memory(&mut figures);
    }
    if wanted("add") {
        lifecycle::add_latency(&mut figures, usize::from(options.runs) * 3);
    }
    if wanted("throughput") {
        throughput::compare(&mut figures, usize::from(options.runs));
    }
    match options.json.map(|path| figures.save(&path)) {
        Some(Err(error)) => {
            eprintln!("vrouter-figures: {error}");
            ExitCode::from(1)
        }
        _ => ExitCode::SUCCESS,
    }
}
