//! R: results, in the form of each version that the plugin lists.

use serde_json::Value;

use super::{Checked, Item, Subject, inapplicable, must, should, want};

/// The items that every version has.
macro_rules! version_items {
    ($version:literal, $number:literal) => {
        [
            must(
                concat!("R", $number, ".1"),
                concat!($version, ": the result's cniVersion is the configuration's"),
                |it| version(it, $version),
            ),
            must(
                concat!("R", $number, ".2"),
                concat!(
                    $version,
                    ": interfaces have names; those in the container its sandbox, the host's none"
                ),
                |it| interfaces(it, $version),
            ),
            must(
                concat!("R", $number, ".3"),
                concat!(
                    $version,
                    ": ips are CIDRs, with a valid interface index and, before 1.0.0, a version"
                ),
                |it| ips(it, $version),
            ),
            must(concat!("R", $number, ".4"), concat!($version, ": routes are CIDRs"), |it| {
                routes(it, $version)
            }),
            should(
                concat!("R", $number, ".5"),
                concat!($version, ": no interface of the host has the name of the container's"),
                |it| host_names(it, $version),
            ),
        ]
    };
}

const OLD: [Item; 5] = version_items!("0.3.1", "031");
const LESS_OLD: [Item; 5] = version_items!("0.4.0", "040");
const NEW: [Item; 5] = version_items!("1.0.0", "100");
const NEWEST: [Item; 5] = version_items!("1.1.0", "110");

pub(super) const ITEMS: &[Item] = &[
    OLD[0],
    OLD[1],
    OLD[2],
    OLD[3],
    OLD[4],
    LESS_OLD[0],
    LESS_OLD[1],
    LESS_OLD[2],
    LESS_OLD[3],
    LESS_OLD[4],
    NEW[0],
    NEW[1],
    NEW[2],
    NEW[3],
    NEW[4],
    NEWEST[0],
    NEWEST[1],
    NEWEST[2],
    NEWEST[3],
    NEWEST[4],
    should("R110.6", "1.1.0: interfaces say their MTU", mtu),
];

/// What ADD answers in a version, and the container's namespace.
fn result(it: &Subject<'_>, version: &str) -> Result<(Value, String), super::Fault> {
    if !it.versions().iter().any(|listed| listed == version) {
        return Err(inapplicable("it does not list this version"));
    }
    let attachment = it.attach(version)?;
    Ok((attachment.result.clone(), attachment.pod.path().display().to_string()))
}

fn list(result: &Value, key: &str) -> Vec<Value> {
    result[key].as_array().cloned().unwrap_or_default()
}

fn version(it: &Subject<'_>, version: &str) -> Checked {
    let (result, _) = result(it, version)?;
    want(result["cniVersion"] == version, || result.to_string())
}

fn interfaces(it: &Subject<'_>, version: &str) -> Checked {
    let (result, netns) = result(it, version)?;
    let interfaces = list(&result, "interfaces");
    let sound = |one: &Value| {
        let sandbox = one["sandbox"].as_str().unwrap_or_default();
        one["name"].as_str().is_some_and(|name| !name.is_empty()) && (sandbox.is_empty() || sandbox == netns)
    };
    let inside = interfaces.iter().any(|one| one["sandbox"] == netns.as_str() && one["name"] == "eth0");
    want(inside && interfaces.iter().all(sound), || result.to_string())
}

fn ips(it: &Subject<'_>, version: &str) -> Checked {
    let (result, _) = result(it, version)?;
    let (ips, count) = (list(&result, "ips"), list(&result, "interfaces").len() as u64);
    let sound = |ip: &Value| {
        let address = ip["address"].as_str().unwrap_or_default();
        let family = if address.contains(':') { "6" } else { "4" };
        let has_version =
            if version < "1.0.0" { ip["version"] == family } else { ip.get("version").is_none() };
        let index = ip.get("interface").is_none_or(|index| index.as_u64().is_some_and(|index| index < count));
        is_cidr(address) && has_version && index
    };
    want(!ips.is_empty() && ips.iter().all(sound), || result.to_string())
}

fn routes(it: &Subject<'_>, version: &str) -> Checked {
    let (result, _) = result(it, version)?;
    let sound = |route: &Value| route["dst"].as_str().is_some_and(is_cidr);
    want(list(&result, "routes").iter().all(sound), || result.to_string())
}

fn host_names(it: &Subject<'_>, version: &str) -> Checked {
    let (result, _) = result(it, version)?;
    let on_host = |one: &&Value| one["sandbox"].as_str().unwrap_or_default().is_empty();
    let clash = list(&result, "interfaces").iter().filter(on_host).any(|one| one["name"] == "eth0");
    want(!clash, || result.to_string())
}

fn mtu(it: &Subject<'_>) -> Checked {
    let (result, _) = result(it, "1.1.0")?;
    let all = list(&result, "interfaces").iter().all(|one| one["mtu"].as_u64().is_some());
    want(all, || result.to_string())
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, length)| {
        let most = if address.contains(':') { 128 } else { 32 };
        address.parse::<std::net::IpAddr>().is_ok() && length.parse::<u8>().is_ok_and(|length| length <= most)
    })
}
