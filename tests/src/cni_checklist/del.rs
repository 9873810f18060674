//! D: DEL.

use super::{Checked, Item, Subject, must, should, want};

pub(super) const ITEMS: &[Item] = &[
    must("D1.1", "DEL of what was never added succeeds", never_added),
    must("D1.2", "DEL succeeds again and again", repeated),
    must("D2.1", "DEL succeeds without CNI_NETNS", |it| without_namespace(it, None)),
    must("D2.2", "DEL succeeds with an empty CNI_NETNS", |it| without_namespace(it, Some(""))),
    must("D2.3", "DEL succeeds with a CNI_NETNS that is gone", |it| {
        without_namespace(it, Some("/run/netns/absent"))
    }),
    must("D2.4", "DEL releases the delegate's address though the namespace is gone", releases_anyway),
    must("D3.1", "DEL succeeds without prevResult", |it| deletes(it, false)),
    must("D3.2", "DEL succeeds with prevResult", |it| deletes(it, true)),
    must("D4", "DEL calls the delegate", calls_the_delegate),
    must("D5", "DEL prints nothing when it succeeds", |it| deletes(it, true)),
    must("D6", "DEL removes all that ADD made, in the container and on the host", removes_all),
    must("D7", "DEL of one container leaves the others alone", others_stay),
    should("D8", "DEL succeeds where the interface is gone already", interface_gone),
    should("D9", "DEL succeeds while the daemon that it depends on is away", daemon_away),
];

fn never_added(it: &Subject<'_>) -> Checked {
    Ok(it.call(&it.container(), &it.pod()).run("DEL", &it.conf(it.latest())).try_done()?)
}

fn repeated(it: &Subject<'_>) -> Checked {
    let attachment = it.attach(it.latest())?;
    for _ in 0..3 {
        attachment.run("DEL").try_done()?;
    }
    Ok(())
}

fn without_namespace(it: &Subject<'_>, path: Option<&str>) -> Checked {
    let attachment = it.attach(it.latest())?;
    let call = match path {
        Some(path) => attachment.call().env("CNI_NETNS", path),
        None => attachment.call().without("CNI_NETNS"),
    };
    Ok(call.run("DEL", &attachment.configuration).try_done()?)
}

fn releases_anyway(it: &Subject<'_>) -> Checked {
    let attachment = it.attach_with(&it.delegating(it.latest(), &[])?)?;
    attachment
        .call()
        .env("CNI_NETNS", "/run/netns/absent")
        .run("DEL", &attachment.configuration)
        .try_done()?;
    let asked = it.asked();
    want(asked.contains(&format!("DEL {}", attachment.id)), || format!("the delegate was asked {asked:?}"))
}

fn deletes(it: &Subject<'_>, with_result: bool) -> Checked {
    let attachment = it.attach(it.latest())?;
    let answer = if with_result { attachment.run_with_result("DEL") } else { attachment.run("DEL") };
    answer.try_done()?;
    want(!attachment.pod.has_link("eth0"), || "the container still has eth0".to_owned())
}

fn calls_the_delegate(it: &Subject<'_>) -> Checked {
    let attachment = it.attach_with(&it.delegating(it.latest(), &[])?)?;
    attachment.run_with_result("DEL").try_done()?;
    let (asked, id) = (it.asked(), &attachment.id);
    want(asked == [format!("ADD {id}"), format!("DEL {id}")], || format!("the delegate was asked {asked:?}"))
}

fn removes_all(it: &Subject<'_>) -> Checked {
    // The first attachment may make what stays for the network, as a bridge.
    it.attach(it.latest())?.run_with_result("DEL").try_done()?;
    let (id, pod) = (it.container(), it.pod());
    let before = it.traces(&pod);
    let call = it.call(&id, &pod);
    call.run("ADD", &it.conf(it.latest())).try_result()?;
    call.run("DEL", &it.conf(it.latest())).try_done()?;
    let after = it.traces(&pod);
    want(before == after, || format!("before {before:?}, after {after:?}"))
}

fn others_stay(it: &Subject<'_>) -> Checked {
    let (one, two) = (it.attach(it.latest())?, it.attach(it.latest())?);
    let before = it.traces(&two.pod);
    one.run_with_result("DEL").try_done()?;
    want(two.pod.has_link("eth0"), || {
        format!("the other container has lost its interface; it had {before:?}")
    })
}

fn interface_gone(it: &Subject<'_>) -> Checked {
    let attachment = it.attach(it.latest())?;
    attachment.pod.netlink(|netlink| netlink.delete_link("eth0"));
    Ok(attachment.run_with_result("DEL").try_done()?)
}

fn daemon_away(it: &Subject<'_>) -> Checked {
    let attachment = it.attach(it.latest())?;
    let answer = it.without_daemon(|| attachment.run_with_result("DEL"))?;
    answer.try_done()?;
    want(!attachment.pod.has_link("eth0"), || "the container still has eth0".to_owned())
}
