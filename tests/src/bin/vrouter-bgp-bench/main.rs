//! Ours beside BIRD, FRR and GoBGP, on the same machine, in one interleaved run.
//!
//! ```text
//!   network namespace, addresses 10.99.0.1 … on lo
//!   processor 1: feeder (.2) ──one write──▶ speaker under test (.1), processor 0 ──▶ receiver (.3), processor 1
//!                all octets made in advance                                          hashes every route
//! ```
//! Ratios of one run count; seconds of a shared machine do not. Figures that hardly depend on who else is busy: memory,
//! octets, messages, CPU seconds.

mod contender;
mod peer;
mod recipe;
mod report;
mod scenario;
mod speaker;
mod tally;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

use contender::Contender;
use recipe::{Feed, Shape};
use report::{Outcomes, Report};

/// Measures VPNv4 route reflection by vRouter's speaker beside BIRD, FRR and GoBGP, and prints ratios.
///
/// Needs root, two processors, a release build (`cargo bgp-bench`), and the Debian packages bird2, frr, gobgpd,
/// iproute2 and util-linux.
#[derive(Parser)]
#[command(
    name = "vrouter-bgp-bench",
    after_help = "Examples:\n  cargo bgp-bench --runs 1 --shapes gw                      two minutes\n  \
                  cargo bgp-bench --parts load,edge,narrow,targets          everything, five runs\n  \
                  cargo bgp-bench --million --parts load --with vrouter,bird"
)]
struct Options {
    #[command(subcommand)]
    role: Option<Role>,
    /// Interleaved runs; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=99))]
    runs: u16,
    /// Route counts
    #[arg(long, value_delimiter = ',', default_value = "3000,100000", value_parser = clap::value_parser!(u32).range(10..=2_000_000))]
    routes: Vec<u32>,
    /// Also a million routes
    #[arg(long)]
    million: bool,
    /// Shapes of routes
    #[arg(long, value_delimiter = ',', default_value = "gw,packed,uniq")]
    shapes: Vec<Shape>,
    /// Who takes part; those that are not installed are left out
    #[arg(long, value_delimiter = ',', default_value = "vrouter,bird,frr,gobgp")]
    with: Vec<Contender>,
    /// What is measured; the last two take minutes a run, for the slowest sets the pace
    #[arg(long, value_delimiter = ',', default_value = "load,edge")]
    parts: Vec<Part>,
    /// Where the figures are kept
    #[arg(long, default_value = "target/bgp-bench.json")]
    json: PathBuf,
}

#[derive(Subcommand)]
enum Role {
    /// Be the speaker under test
    #[command(hide = true)]
    Speaker(speaker::Options),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Reflection: time, processor, memory, octets
    Load,
    /// Import into a thousand VRFs: ours alone
    Edge,
    /// 3,000 routes to a client at 64 kbit/s; with RT constraint 150 of them
    Narrow,
    /// 2,000 route targets, half of them withdrawn and asked for again
    Targets,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.role {
        Some(Role::Speaker(speaker)) => speaker::run(speaker),
        None => bench(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vrouter-bgp-bench: {error}");
            ExitCode::from(1)
        }
    }
}

fn bench(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    if cfg!(debug_assertions) {
        return Err("a debug build: figures mean nothing. Run `cargo bgp-bench`".into());
    }
    if !vrouter_tests::sys::is_root() {
        return Err("needs root: it makes a network namespace".into());
    }
    vrouter_tests::netns::sweep();
    let own = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-a", "-c", "-p", "1", &own]).output()?;
    if !pinned.status.success() {
        return Err("cannot pin itself to processor 1: two processors are needed".into());
    }
    let directory = tempfile::Builder::new().prefix(&format!("vr-{own}-")).tempdir()?;
    let mut report = Report::new(&options.json)?;
    let mut present = Vec::new();
    for contender in Contender::ALL.into_iter().filter(|contender| options.with.contains(contender)) {
        match contender.version() {
            Some(version) => {
                println!("{:10}{version}", contender.name());
                report.note(&format!("version of {}", contender.name()), json!(version));
                present.push(contender);
            }
            None => println!("{:10}is not installed", contender.name()),
        }
    }
    report.note("machine", json!(machine()));
    let bench = Bench { options, present, directory: directory.path() };
    bench.run_all(&mut report);
    println!("\nall figures: {}", options.json.display());
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    present: Vec<Contender>,
    directory: &'a Path,
}

impl Bench<'_> {
    fn run_all(&self, report: &mut Report) {
        let options = self.options;
        let sizes = options.routes.iter().copied().chain(options.million.then_some(1_000_000));
        let wants = |part| options.parts.contains(&part);
        for routes in sizes {
            for &shape in &options.shapes {
                let feed = Feed::new(shape, routes);
                if wants(Part::Load) {
                    let outcomes =
                        self.interleave(&self.present, |who, place| scenario::load(who, place, &feed));
                    report.load("reflector", shape, routes, &outcomes);
                }
                if wants(Part::Edge) && self.present.contains(&Contender::Vrouter) {
                    let outcomes =
                        self.interleave(&[Contender::Vrouter], |_, place| scenario::edge(place, &feed));
                    report.load("edge, 1,000 VRFs", shape, routes, &outcomes);
                }
            }
        }
        let with_rtc: Vec<Contender> = self.present.iter().copied().filter(|who| who.knows_rtc()).collect();
        if wants(Part::Narrow) {
            let feed = Feed::new(Shape::Gw, 3000);
            let outcomes =
                self.interleave(&self.present, |who, place| scenario::narrow(who, place, &feed, false));
            report.narrow(3000, &outcomes);
            let outcomes = self.interleave(&with_rtc, |who, place| scenario::narrow(who, place, &feed, true));
            report.narrow(150, &outcomes);
        }
        if wants(Part::Targets) {
            let feed = Feed::new(Shape::Gw, 100_000);
            let outcomes = self.interleave(&with_rtc, |who, place| scenario::targets(who, place, &feed));
            report.targets(100_000, &outcomes);
        }
    }

    /// Everybody once, then everybody again: what disturbs the machine for a while disturbs all of them.
    fn interleave<T>(
        &self,
        who: &[Contender],
        mut measure: impl FnMut(Contender, &Path) -> Result<T, String>,
    ) -> Outcomes<T> {
        let mut outcomes = Outcomes::new();
        for run in 0..self.options.runs {
            for &contender in who {
                let place = self.directory.join(format!("{}-{run}", contender.name()));
                let outcome = measure(contender, &place);
                let _ = std::fs::remove_dir_all(&place);
                outcomes.entry(contender).or_insert_with(Vec::new).push(outcome);
            }
        }
        outcomes
    }
}

/// The processor's name and the kernel's version.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" unknown processor");
    format!(
        "{}, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        read("/proc/sys/kernel/osrelease").trim()
    )
}
