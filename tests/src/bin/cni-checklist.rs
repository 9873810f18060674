//! The CNI specification as a numbered checklist, run against any plugin.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};
use vrouter_tests::binaries::binary;
use vrouter_tests::cni_checklist::{self, Level, Score, Subject};
use vrouter_tests::cni_run::REFERENCE_PLUGINS;
use vrouter_tests::config::{AgentConfig, Vrf};
use vrouter_tests::lab::Lab;
use vrouter_tests::node::Node;

/// Holds a CNI plugin against every MUST and SHOULD of the specification that it can be asked for, and prints a table.
///
/// Needs root: the plugin is called in network namespaces that are made for it and removed again.
#[derive(Parser)]
#[command(
    name = "cni-checklist",
    after_help = "Examples:\n  cargo run -p vrouter-tests --bin cni-checklist -- --plugin ptp\n  \
                  … --plugin /opt/cni/bin/calico --conf calico.json\n\nExit codes: 0 every MUST that applies is fulfilled, \
                  1 one is not, 2 usage."
)]
struct Options {
    /// The plugin: a path, or the name of a reference plugin; `vrouter-cni` brings its agent along
    #[arg(long, default_value = "vrouter-cni")]
    plugin: String,
    /// Its configuration, a JSON object as in `plugins` of a list; known for vrouter-cni, ptp and bridge
    #[arg(long)]
    conf: Option<PathBuf>,
    /// Print the items, and run none
    #[arg(long)]
    list: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for item in cni_checklist::items() {
            println!("{:6}  {:6}  {}", item.id, level(item.level), item.clause);
        }
        return ExitCode::SUCCESS;
    }
    let lab = Lab::new();
    let score = match (options.plugin.as_str(), &options.conf) {
        ("vrouter-cni", None) => ours(&lab),
        (name, conf) => match configuration(name, conf.as_deref(), &lab) {
            Ok(conf) => other(&lab, name, conf),
            Err(why) => {
                eprintln!("cni-checklist: {why}");
                return ExitCode::from(2);
            }
        },
    };
    if options.json {
        println!("{:#}", to_json(&score));
    } else {
        print!("{}", score.table());
    }
    let (fulfilled, all) = score.of(Level::Must);
    ExitCode::from(u8::from(fulfilled < all))
}

fn ours(lab: &Lab) -> Score {
    let vrf = Vrf::new("checklist", "target:64512:1").pods("10.98.0.0/24").pods("fd00:98::/64").default();
    let mut node = Node::start(lab, "checklist", 1, &AgentConfig::new(64512).vrf(&vrf));
    cni_checklist::run(&Subject::vrouter(&binary("vrouter-cni"), &mut node, lab))
}

fn other(lab: &Lab, name: &str, conf: Value) -> Score {
    let plugin =
        if name.contains('/') { PathBuf::from(name) } else { Path::new(REFERENCE_PLUGINS).join(name) };
    cni_checklist::run(&Subject::new(name, &plugin, conf, &lab.namespace("checklist"), lab))
}

fn configuration(name: &str, file: Option<&Path>, lab: &Lab) -> Result<Value, String> {
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        return serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()));
    }
    cni_checklist::reference_configuration(name, &lab.path("leases"))
        .ok_or_else(|| format!("no configuration is known for {name:?}: give one with --conf"))
}

fn level(level: Level) -> &'static str {
    if level == Level::Must { "MUST" } else { "SHOULD" }
}

fn to_json(score: &Score) -> Value {
    let line = |line: &cni_checklist::Line| {
        let (outcome, why) = match &line.checked {
            Ok(()) => ("pass", None),
            Err(cni_checklist::Fault::Fails(why)) => ("fail", Some(why)),
            Err(cni_checklist::Fault::NotApplicable(why)) => ("not-applicable", Some(why)),
        };
        json!({ "id": line.id, "level": level(line.level), "clause": line.clause, "outcome": outcome, "why": why })
    };
    let ((must, musts), (should, shoulds)) = (score.of(Level::Must), score.of(Level::Should));
    json!({
        "plugin": score.plugin, "must": { "fulfilled": must, "of": musts }, "should": { "fulfilled": should, "of": shoulds },
        "items": score.lines.iter().map(line).collect::<Vec<_>>(),
    })
}
