//! A: ADD.

use std::process::Command;

use serde_json::json;

use super::subject::Attachment;
use super::{Checked, Item, Subject, must, should, want};
use crate::cni_run::ip_json;
use crate::process::{run, run_ok};

pub(super) const ITEMS: &[Item] = &[
    must("A1.1", "ADD makes an interface of the name CNI_IFNAME in CNI_NETNS", makes_the_interface),
    must("A1.2", "any valid name will do", |it| named(it, "net-7.a_b")),
    must(
        "A2",
        "ADD fails where the container has an interface of that name, and leaves it alone",
        name_taken,
    ),
    must(
        "A3.1",
        "the result names the interface, its sandbox and its hardware address, as they are",
        interfaces_are_real,
    ),
    must("A3.2", "the addresses of the result are on the interface", addresses_are_real),
    must("A3.3", "the routes of the result are in the container", routes_are_real),
    must("A4", "what is in prevResult is passed on", previous_is_kept),
    must("A5", "a delegate that fails ADD fails the whole", delegate_fails),
    should("A5.1", "such a delegate is called with DEL before ADD fails", delegate_is_told),
    should("A6", "an ADD that fails leaves nothing in the container or on the host", nothing_left),
    must("A7", "a namespace that is absent, or none, is an error", no_namespace),
    should("A8", "the interface is up and its addresses usable when ADD returns", usable_at_once),
    should("A9", "another interface of the same container is another attachment", second_interface),
];

fn makes_the_interface(it: &Subject<'_>) -> Checked {
    let attachment = it.attach(it.latest())?;
    want(attachment.pod.has_link("eth0"), || "the container has no eth0".to_owned())
}

fn named(it: &Subject<'_>, name: &str) -> Checked {
    let (id, pod) = (it.container(), it.pod());
    let call = it.call(&id, &pod).env("CNI_IFNAME", name);
    let conf = it.conf(it.latest());
    let added = call.run("ADD", &conf).try_result();
    let there = pod.has_link(name);
    call.run("DEL", &conf).try_done()?;
    added?;
    want(there, || format!("the container has no {name}"))
}

fn name_taken(it: &Subject<'_>) -> Checked {
    let (id, pod) = (it.container(), it.pod());
    run_ok(&pod, Command::new("ip").args(["link", "add", "eth0", "type", "veth", "peer", "name", "eth9"]));
    let before = it.traces(&pod);
    let error = it.call(&id, &pod).run("ADD", &it.conf(it.latest())).try_error();
    let after = it.traces(&pod);
    let _ = it.call(&id, &pod).run("DEL", &it.conf(it.latest()));
    error?;
    want(before == after, || format!("before {before:?}, after {after:?}"))
}

fn interfaces_are_real(it: &Subject<'_>) -> Checked {
    let attachment = it.attach(it.latest())?;
    let interfaces = attachment.result["interfaces"].as_array().cloned().unwrap_or_default();
    let netns = attachment.pod.path().display().to_string();
    let mine = interfaces.iter().find(|one| one["name"] == "eth0" && one["sandbox"] == netns.as_str());
    let mac = mine.and_then(|one| one["mac"].as_str()).unwrap_or_default().to_owned();
    let real = attachment.pod.mac("eth0").to_string();
    want(mac.eq_ignore_ascii_case(&real), || {
        format!("eth0 in {netns} has {real}; the result: {}", attachment.result)
    })
}

/// The addresses of an interface of the container.
fn present(attachment: &Attachment<'_, '_>) -> Vec<String> {
    let shown = ip_json(&attachment.pod, &["addr", "show", "dev", "eth0"]);
    let infos = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
    infos.iter().filter_map(|info| info["local"].as_str().map(str::to_owned)).collect()
}

fn addresses_are_real(it: &Subject<'_>) -> Checked {
    let attachment = it.attach(it.latest())?;
    let (said, there) = (attachment.addresses(), present(&attachment));
    want(!said.is_empty() && said.iter().all(|address| there.contains(address)), || {
        format!("said {said:?}, there are {there:?}")
    })
}

fn routes_are_real(it: &Subject<'_>) -> Checked {
    let attachment = it.attach(it.latest())?;
    for route in attachment.result["routes"].as_array().into_iter().flatten() {
        let to = route["dst"].as_str().unwrap_or_default();
        let family = if to.contains(':') { "-6" } else { "-4" };
        let to = if to.ends_with("/0") { "default" } else { to };
        let found = ip_json(&attachment.pod, &[family, "route", "show", to]);
        want(found.as_array().is_some_and(|list| !list.is_empty()), || {
            format!("{route} is not in the container")
        })?;
    }
    Ok(())
}

fn previous_is_kept(it: &Subject<'_>) -> Checked {
    let mut conf = it.conf(it.latest());
    let pod = it.pod();
    let id = it.container();
    let (version, old) = (it.latest().to_owned(), it.latest() < "1.0.0");
    let mut address = json!({ "address": "192.0.2.7/24", "interface": 0 });
    if old {
        address["version"] = json!("4");
    }
    conf["prevResult"] = json!({
        "cniVersion": version, "interfaces": [{ "name": "before0", "sandbox": pod.path() }], "ips": [address],
        "routes": [{ "dst": "198.51.100.0/24" }], "dns": {},
    });
    let call = it.call(&id, &pod);
    let result = call.run("ADD", &conf).try_result();
    let _ = call.run("DEL", &conf);
    let text = result?.to_string();
    let kept = ["before0", "192.0.2.7/24", "198.51.100.0/24"];
    want(kept.iter().all(|what| text.contains(what)), || format!("of prevResult something is gone: {text}"))
}

fn delegate_fails(it: &Subject<'_>) -> Checked {
    let conf = it.delegating(it.latest(), &["ADD"])?;
    let error = it.call(&it.container(), &it.pod()).run("ADD", &conf).try_error()?;
    want(error.msg.contains("delegate says no"), || format!("its words are lost: {error:?}"))
}

fn delegate_is_told(it: &Subject<'_>) -> Checked {
    let conf = it.delegating(it.latest(), &["ADD"])?;
    let id = it.container();
    it.call(&id, &it.pod()).run("ADD", &conf).try_error()?;
    let asked = it.asked();
    want(asked == [format!("ADD {id}"), format!("DEL {id}")], || format!("the delegate was asked {asked:?}"))
}

fn nothing_left(it: &Subject<'_>) -> Checked {
    // The first attachment may make what stays for the network, as a bridge.
    drop(it.attach(it.latest())?);
    let conf = it.delegating(it.latest(), &["ADD"])?;
    let pod = it.pod();
    let before = it.traces(&pod);
    it.call(&it.container(), &pod).run("ADD", &conf).try_error()?;
    let after = it.traces(&pod);
    want(before == after, || format!("before {before:?}, after {after:?}"))
}

fn no_namespace(it: &Subject<'_>) -> Checked {
    let id = it.container();
    let call = it.call(&id, &it.pod());
    for path in ["/run/netns/absent", "/dev/null"] {
        call.clone()
            .env("CNI_NETNS", path)
            .run("ADD", &it.conf(it.latest()))
            .try_error()
            .map_err(|why| format!("{path}: {why}"))?;
    }
    let _ = call.env("CNI_NETNS", "").run("DEL", &it.conf(it.latest()));
    Ok(())
}

fn usable_at_once(it: &Subject<'_>) -> Checked {
    let attachment = it.attach(it.latest())?;
    let shown = run(&attachment.pod, Command::new("ip").args(["addr", "show", "dev", "eth0"]));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let tentative = shown.lines().any(|line| line.contains("scope global") && line.contains("tentative"));
    want(shown.contains("state UP") && !tentative, || shown.clone())
}

fn second_interface(it: &Subject<'_>) -> Checked {
    let first = it.attach(it.latest())?;
    let mut conf = it.conf(it.latest());
    // Two default routes cannot be: of the second interface the reference plugins are told to set none.
    if let Some(ipam) = conf.get_mut("ipam").and_then(|ipam| ipam.as_object_mut()) {
        ipam.remove("routes");
    }
    let call = first.call().env("CNI_IFNAME", "net1");
    let added = call.run("ADD", &conf).try_result();
    let both = first.pod.has_link("eth0") && first.pod.has_link("net1");
    let deleted = call.run("DEL", &conf).try_done();
    let left = (first.pod.has_link("eth0"), first.pod.has_link("net1"));
    added?;
    deleted?;
    want(both && left == (true, false), || format!("both there: {both}; after DEL of net1: {left:?}"))
}
