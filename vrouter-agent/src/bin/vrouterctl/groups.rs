//! `vrouterctl security-group`: from files to the agent, and what the agent has.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use agent_api::path::SECURITY_GROUPS;
use agent_api::{
    ClientError, ProtocolError, RuleDirection, RuleFamily, SecurityGroup, SecurityGroupChanged,
    SecurityGroupView, SecurityGroups, SecurityRule,
};
use clap::Subcommand;

use crate::table::Table;
use crate::{Asker, pretty};

#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// All groups, with their rules, members and ports counted
    #[command(after_help = "Example:\n  vrouterctl security-group list")]
    List,
    /// One group: its rules, who is a member, which ports are in it
    #[command(after_help = "Example:\n  vrouterctl security-group show web")]
    Show {
        /// Its name
        name: String,
    },
    /// Make groups, or other ones of them, from a file
    #[command(
        after_help = "Example:\n  vrouterctl security-group set web.json\n\nThe file has one group, or a list of them:\n  \
                      {\"name\": \"web\", \"members\": [\"10.9.0.7/32\"], \"rules\": [\n    \
                      {\"direction\": \"egress\", \"family\": \"ipv4\"},\n    \
                      {\"direction\": \"ingress\", \"family\": \"ipv4\", \"protocol\": \"tcp\", \"portMin\": 80, \
                      \"portMax\": 90, \"remotePrefix\": \"10.0.0.0/8\"},\n    \
                      {\"direction\": \"ingress\", \"family\": \"ipv4\", \"protocol\": \"icmp\", \"icmpType\": 8},\n    \
                      {\"direction\": \"ingress\", \"family\": \"ipv4\", \"remoteGroup\": \"web\"}]}\n\nRules allow; what \
                      none allows does not begin. Established flows go on where the new rules still allow them.\n\
                      `members` are addresses on other nodes; the ports of this node count by themselves."
    )]
    Set {
        /// JSON
        file: PathBuf,
    },
    /// Take a group away that no port is in
    #[command(after_help = "Example:\n  vrouterctl security-group delete web")]
    Delete {
        /// Its name
        name: String,
    },
}

pub(crate) fn run(ask: &mut Asker, group: &Group) -> Result<String, ClientError> {
    match group {
        Group::List => ask.get(SECURITY_GROUPS, list),
        Group::Show { name } => ask.get(&format!("{SECURITY_GROUPS}/{name}"), show),
        Group::Set { file } => {
            let mut text = String::new();
            for group in read(file).unwrap_or_else(|error| usage(&error)) {
                let path = format!("{SECURITY_GROUPS}/{}", group.name);
                let reply = ask.client.put(&path, &group)?;
                text += &changed(ask, &reply, "set");
            }
            Ok(text)
        }
        Group::Delete { name } => {
            let reply = ask.client.delete(&format!("{SECURITY_GROUPS}/{name}"))?;
            Ok(changed(ask, &reply, "deleted"))
        }
    }
}

fn changed(ask: &Asker, reply: &serde_json::Value, what: &str) -> String {
    if ask.json {
        return pretty(reply);
    }
    match serde_json::from_value::<SecurityGroupChanged>(reply.clone()) {
        Ok(reply) if what == "deleted" && !reply.existed => {
            format!("There was no security group {}.\n", reply.name)
        }
        Ok(reply) => format!("Security group {} is {what}.\n", reply.name),
        Err(source) => format!("{}\n", ProtocolError::Json { status: 200, source }),
    }
}

/// The groups of a file.
fn read(file: &Path) -> Result<Vec<SecurityGroup>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let wrong = |error| format!("{}: {error}", file.display());
    let groups: Vec<SecurityGroup> = if text.trim_start().starts_with('[') {
        serde_json::from_str(&text).map_err(wrong)?
    } else {
        vec![serde_json::from_str(&text).map_err(wrong)?]
    };
    match groups.iter().position(|group| group.name.is_empty() || group.name.contains('/')) {
        Some(at) => Err(format!("{}: group {} needs a name, like \"name\": \"web\"", file.display(), at + 1)),
        None => Ok(groups),
    }
}

/// As clap ends where an argument is wrong.
fn usage(error: &str) -> ! {
    eprintln!("vrouterctl: {error}");
    std::process::exit(2)
}

fn list(reply: &SecurityGroups) -> String {
    let mut table = Table::new(["Group", ">Rules", ">Members", ">Ports", "Description"]);
    for (name, view) in &reply.security_groups {
        let built_in = if view.built_in { "built in: " } else { "" };
        let description = view.group.description.as_deref().unwrap_or_default();
        table.row([
            name.clone(),
            view.group.rules.len().to_string(),
            view.addresses.len().to_string(),
            view.ports.len().to_string(),
            format!("{built_in}{description}"),
        ]);
    }
    table.render()
}

fn show(view: &SecurityGroupView) -> String {
    let mut text = format!("Security group {}", view.group.name);
    if view.built_in {
        text += ", built in";
    }
    text.push('\n');
    if let Some(description) = &view.group.description {
        let _ = writeln!(text, "  {description}");
    }
    text += "\nRules\n";
    let mut table = Table::new(["Direction", "Family", "Protocol", "Ports", "Remote"]);
    view.group.rules.iter().for_each(|rule| table.row(row(rule)));
    text += &table.render();
    let joined = |what: &[String]| if what.is_empty() { "none".to_owned() } else { what.join(" ") };
    let addresses: Vec<String> = view.addresses.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "\nMembers  {}\nPorts    {}", joined(&addresses), joined(&view.ports));
    text
}

fn row(rule: &SecurityRule) -> [String; 5] {
    let direction = if rule.direction == RuleDirection::Ingress { "ingress" } else { "egress" };
    let family = if rule.family == RuleFamily::Ipv4 { "ipv4" } else { "ipv6" };
    let any = || "any".to_owned();
    let ports = match (rule.port_min, rule.icmp_type) {
        (Some(first), _) if rule.port_max.is_none_or(|last| last == first) => first.to_string(),
        (Some(first), _) => format!("{first}-{}", rule.port_max.unwrap_or(first)),
        (None, Some(kind)) => match rule.icmp_code {
            Some(code) => format!("type {kind} code {code}"),
            None => format!("type {kind}"),
        },
        (None, None) => any(),
    };
    let remote = match (&rule.remote_prefix, &rule.remote_group) {
        (Some(prefix), _) => prefix.to_string(),
        (None, Some(group)) => format!("group {group}"),
        (None, None) => any(),
    };
    [direction.to_owned(), family.to_owned(), rule.protocol.clone().unwrap_or_else(any), ports, remote]
}
