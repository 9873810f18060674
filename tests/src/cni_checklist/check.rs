//! C: CHECK.

use std::process::Command;

use serde_json::json;

use super::subject::Attachment;
use super::{Checked, Item, Subject, must, should, want};
use crate::process::run_ok;

pub(super) const ITEMS: &[Item] = &[
    must("C0", "CHECK in a version before 0.4.0 is error 1", too_old),
    must("C1", "CHECK succeeds right after ADD and prints nothing", right_after_add),
    must("C1.1", "CHECK without prevResult is an error", without_result),
    must("C2", "CHECK tolerates what plugins behind it added", tolerates_others),
    must("C3.1", "CHECK fails when the interface is gone", |it| lost(it, &["link", "del", "eth0"])),
    must("C3.2", "CHECK fails when an address is gone", |it| {
        lost(it, &["addr", "flush", "dev", "eth0", "scope", "global"])
    }),
    must("C3.3", "CHECK fails when a route is gone", |it| lost(it, &["route", "del", "default"])),
    should("C3.4", "CHECK fails when the interface is down", |it| lost(it, &["link", "set", "eth0", "down"])),
    must("C3.5", "CHECK fails when prevResult names an address that is not there", other_address),
    should("C3.6", "CHECK fails when the daemon that it depends on is away", daemon_away),
    must("C5", "CHECK calls the delegate and passes its error on", calls_the_delegate),
];

fn too_old(it: &Subject<'_>) -> Checked {
    if !it.versions().iter().any(|version| version == "0.3.1") {
        return Err(super::inapplicable("it does not list 0.3.1"));
    }
    let attachment = it.attach("0.3.1")?;
    let error = attachment.run_with_result("CHECK").try_error()?;
    want(error.code == 1, || format!("{error:?}"))
}

fn attach<'s, 'a>(it: &'s Subject<'a>) -> Result<Attachment<'s, 'a>, super::Fault> {
    it.needs("0.4.0")?;
    it.attach(it.latest())
}

fn right_after_add(it: &Subject<'_>) -> Checked {
    let attachment = attach(it)?;
    attachment.run_with_result("CHECK").try_done()?;
    Ok(attachment.run_with_result("CHECK").try_done()?)
}

fn without_result(it: &Subject<'_>) -> Checked {
    attach(it)?.run("CHECK").try_error()?;
    Ok(())
}

fn tolerates_others(it: &Subject<'_>) -> Checked {
    let mut attachment = attach(it)?;
    let pod = attachment.pod.clone();
    run_ok(
        &pod,
        Command::new("ip").args(["link", "add", "later0", "type", "veth", "peer", "name", "later1"]),
    );
    run_ok(&pod, Command::new("ip").args(["addr", "add", "203.0.113.9/32", "dev", "eth0"]));
    run_ok(&pod, Command::new("ip").args(["link", "set", "later0", "up"]));
    run_ok(&pod, Command::new("ip").args(["link", "set", "later1", "up"]));
    run_ok(&pod, Command::new("ip").args(["route", "add", "198.51.100.0/24", "dev", "later0"]));
    if let Some(interfaces) = attachment.result["interfaces"].as_array_mut() {
        interfaces.push(json!({ "name": "later0", "sandbox": pod.path() }));
    }
    Ok(attachment.run_with_result("CHECK").try_done()?)
}

fn lost(it: &Subject<'_>, words: &[&str]) -> Checked {
    let attachment = attach(it)?;
    attachment.run_with_result("CHECK").try_done()?;
    run_ok(&attachment.pod, Command::new("ip").args(words));
    let answer = attachment.run_with_result("CHECK");
    answer.try_error().map_err(|why| format!("after ip {}: {why}", words.join(" ")))?;
    Ok(())
}

fn other_address(it: &Subject<'_>) -> Checked {
    let mut attachment = attach(it)?;
    attachment.result["ips"][0]["address"] = json!("192.0.2.99/32");
    attachment.run_with_result("CHECK").try_error()?;
    Ok(())
}

fn daemon_away(it: &Subject<'_>) -> Checked {
    let attachment = attach(it)?;
    let answer = it.without_daemon(|| attachment.run_with_result("CHECK"))?;
    answer.try_error()?;
    Ok(())
}

fn calls_the_delegate(it: &Subject<'_>) -> Checked {
    it.needs("0.4.0")?;
    let attachment = it.attach_with(&it.delegating(it.latest(), &["CHECK"])?)?;
    let error = attachment.run_with_result("CHECK").try_error()?;
    let asked = it.asked();
    want(asked.contains(&format!("CHECK {}", attachment.id)), || {
        format!("asked {asked:?}, answered {error:?}")
    })
}
