//! G: GC, from version 1.1.0 on.

use serde_json::{Value, json};

use super::subject::Attachment;
use super::{Checked, Item, Subject, must, should, want};

pub(super) const ITEMS: &[Item] = &[
    must("G0", "GC in a version before 1.1.0 is error 1", too_old),
    must("G1", "what is in cni.dev/valid-attachments stays", |it| collects(it, "cni.dev/valid-attachments")),
    should("G1.1", "the key that libcni misspelt (cni.dev/attachments) is read too", |it| {
        collects(it, "cni.dev/attachments")
    }),
    must("G2", "what is not in the list goes though its namespace is gone", namespace_gone),
    must("G4", "GC is passed on to the delegate, and so is its error", passed_on),
    must("G5", "GC prints nothing when it succeeds", quiet),
    must("G6.1", "without a list nothing goes", without_a_list),
    must("G6.2", "an empty list means that all of the network goes", empty_list),
    must("G8", "attachments of another network stay", other_network),
];

fn too_old(it: &Subject<'_>) -> Checked {
    it.needs("1.1.0")?;
    let Some(version) = it.versions().iter().find(|version| version.as_str() < "1.1.0") else {
        return Err(super::inapplicable("it lists no version before 1.1.0"));
    };
    let error = it.bare().run("GC", &it.conf(version)).try_error()?;
    want(error.code == 1, || format!("{error:?}"))
}

fn attach<'s, 'a>(it: &'s Subject<'a>) -> Result<Attachment<'s, 'a>, super::Fault> {
    it.needs("1.1.0")?;
    it.attach("1.1.0")
}

/// GC with this list under this key.
fn gc(it: &Subject<'_>, key: &str, valid: &[&Attachment<'_, '_>]) -> Result<(), String> {
    let mut conf = it.conf("1.1.0");
    let entry = |one: &&Attachment<'_, '_>| json!({ "containerID": one.id, "ifname": "eth0" });
    conf[key] = Value::Array(valid.iter().map(entry).collect());
    it.bare().run("GC", &conf).try_done()
}

fn collects(it: &Subject<'_>, key: &str) -> Checked {
    let (keep, stale) = (attach(it)?, attach(it)?);
    gc(it, key, &[&keep])?;
    let left = (keep.pod.has_link("eth0"), stale.pod.has_link("eth0"));
    want(left == (true, false), || format!("(valid, stale) have an interface: {left:?}"))
}

fn namespace_gone(it: &Subject<'_>) -> Checked {
    let (keep, stale) = (attach(it)?, attach(it)?);
    stale.pod.netlink(|netlink| netlink.delete_link("eth0"));
    gc(it, "cni.dev/valid-attachments", &[&keep])?;
    // What was its own is free again: it can come back.
    stale.run("ADD").try_result().map(drop)?;
    want(keep.pod.has_link("eth0"), || "the valid attachment is gone".to_owned())
}

fn passed_on(it: &Subject<'_>) -> Checked {
    it.needs("1.1.0")?;
    let mut conf = it.delegating("1.1.0", &["GC"])?;
    conf["cni.dev/valid-attachments"] = json!([]);
    let error = it.bare().run("GC", &conf).try_error()?;
    let asked = it.asked();
    want(asked.iter().any(|line| line.starts_with("GC")), || format!("asked {asked:?}, answered {error:?}"))
}

fn quiet(it: &Subject<'_>) -> Checked {
    let keep = attach(it)?;
    Ok(gc(it, "cni.dev/valid-attachments", &[&keep])?)
}

fn without_a_list(it: &Subject<'_>) -> Checked {
    let one = attach(it)?;
    it.bare().run("GC", &it.conf("1.1.0")).try_done()?;
    want(one.pod.has_link("eth0"), || "the attachment is gone".to_owned())
}

fn empty_list(it: &Subject<'_>) -> Checked {
    let (one, two) = (attach(it)?, attach(it)?);
    gc(it, "cni.dev/valid-attachments", &[])?;
    let left = (one.pod.has_link("eth0"), two.pod.has_link("eth0"));
    want(left == (false, false), || format!("still have an interface: {left:?}"))
}

fn other_network(it: &Subject<'_>) -> Checked {
    it.needs("1.1.0")?;
    let mut conf = it.conf("1.1.0");
    conf["name"] = json!("elsewhere");
    let other = it.attach_with(&conf)?;
    gc(it, "cni.dev/valid-attachments", &[])?;
    want(other.pod.has_link("eth0"), || "the other network's attachment is gone".to_owned())
}
