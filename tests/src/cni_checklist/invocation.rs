//! I: how a plugin is called (specification, "Parameters").

use serde_json::json;

use super::{Checked, Item, Subject, must, should, want};
use crate::cni_run::CniCall;

pub(super) const ITEMS: &[Item] = &[
    must("I1", "the result of ADD is one JSON object on stdout, with exit code 0", one_object),
    must("I2", "a failure has an exit code other than 0 and an error object on stdout", error_on_stdout),
    should("I3", "the plugin's own namespace as CNI_NETNS is refused", own_namespace),
    must("I4", "invocations for different containers may run at the same time", concurrent),
    must("I5.1", "ADD without CNI_CONTAINERID, CNI_NETNS or CNI_IFNAME is error 4", |it| {
        missing(it, "ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])
    }),
    must("I5.2", "CHECK without CNI_CONTAINERID, CNI_NETNS or CNI_IFNAME is error 4", |it| {
        it.needs("0.4.0")?;
        missing(it, "CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])
    }),
    must("I5.3", "DEL without CNI_CONTAINERID or CNI_IFNAME is error 4", |it| {
        missing(it, "DEL", &["CNI_CONTAINERID", "CNI_IFNAME"])
    }),
    must("I5.4", "GC without CNI_PATH is error 4", |it| {
        it.needs("1.1.0")?;
        missing(it, "GC", &["CNI_PATH"])
    }),
    should("I5.5", "all missing variables are named in one message", all_named),
    must(
        "I6.1",
        "CNI_CONTAINERID begins with a letter or digit and has letters, digits, '_', '.', '-' only",
        container_ids,
    ),
    must(
        "I6.2",
        "CNI_IFNAME is at most 15 octets, not . or .., without '/', ':' and white space",
        interface_names,
    ),
    must("I7.1", "an unknown CNI_COMMAND is error 4", unknown_command),
    should("I7.2", "without CNI_COMMAND it says on stderr what it is, with exit code 0", about),
    must("I8", "CNI_ARGS with unknown keys and IgnoreUnknown is accepted, in any order", arguments),
    should("I9", "further variables (TRACEPARENT, BAGGAGE) are no matter", tracing),
];

fn one_object(it: &Subject<'_>) -> Checked {
    it.attach(it.latest()).map(drop)
}

fn error_on_stdout(it: &Subject<'_>) -> Checked {
    let error = it
        .call("c1", &it.pod())
        .env("CNI_NETNS", "/run/netns/absent")
        .run("ADD", &it.conf(it.latest()))
        .try_error()?;
    want(!error.msg.is_empty(), || format!("an error without words: {error:?}"))
}

fn own_namespace(it: &Subject<'_>) -> Checked {
    let own = it.host().path().display().to_string();
    let call = it.call(&it.container(), &it.pod()).env("CNI_NETNS", &own);
    let refused = call.run("ADD", &it.conf(it.latest())).try_error();
    let _ = call.run("DEL", &it.conf(it.latest()));
    refused?;
    Ok(())
}

fn concurrent(it: &Subject<'_>) -> Checked {
    let pods: Vec<_> = (0..8).map(|_| (it.container(), it.pod())).collect();
    let conf = it.conf(it.latest());
    let calls: Vec<CniCall> = pods.iter().map(|(id, pod)| it.call(id, pod)).collect();
    let all = |verb: &'static str| -> Vec<_> {
        std::thread::scope(|scope| {
            let running: Vec<_> = calls.iter().map(|call| scope.spawn(|| call.run(verb, &conf))).collect();
            running.into_iter().filter_map(|call| call.join().ok()).collect()
        })
    };
    let added: Result<Vec<_>, _> = all("ADD").iter().map(crate::cni_run::CniAnswer::try_result).collect();
    let alive = pods.iter().all(|(_, pod)| pod.has_link("eth0"));
    let deleted: Result<Vec<_>, _> = all("DEL").iter().map(crate::cni_run::CniAnswer::try_done).collect();
    let mut addresses: Vec<_> =
        added?.iter().filter_map(|result| result["ips"][0]["address"].as_str().map(str::to_owned)).collect();
    deleted?;
    addresses.sort_unstable();
    addresses.dedup();
    want(alive && addresses.len() == pods.len(), || format!("eight pods got {addresses:?}"))
}

fn missing(it: &Subject<'_>, verb: &str, names: &[&str]) -> Checked {
    for name in names {
        let error = it.call("c1", &it.pod()).without(name).run(verb, &it.conf(it.latest())).try_error()?;
        want(error.code == 4 && error.msg.contains(name), || format!("without {name}: {error:?}"))?;
    }
    Ok(())
}

fn all_named(it: &Subject<'_>) -> Checked {
    let error = it.bare().run("ADD", &it.conf(it.latest())).try_error()?;
    let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
    want(names.iter().all(|name| error.msg.contains(name)), || format!("{error:?}"))
}

fn container_ids(it: &Subject<'_>) -> Checked {
    for id in ["../c1", "-c1", ".c1", "c 1", "c/1"] {
        let error = it.call(id, &it.pod()).run("ADD", &it.conf(it.latest())).try_error()?;
        want(error.code == 4, || format!("{id:?}: {error:?}"))?;
    }
    Ok(())
}

fn interface_names(it: &Subject<'_>) -> Checked {
    for name in ["a/b", "a:b", "a b", ".", "..", "sixteencharacter"] {
        let call = it.call("c1", &it.pod()).env("CNI_IFNAME", name);
        let error = call.run("ADD", &it.conf(it.latest())).try_error()?;
        want(error.code == 4, || format!("{name:?}: {error:?}"))?;
    }
    Ok(())
}

fn unknown_command(it: &Subject<'_>) -> Checked {
    for verb in ["REMOVE", "add"] {
        let error = it.call("c1", &it.pod()).run(verb, &it.conf(it.latest())).try_error()?;
        want(error.code == 4, || format!("{verb:?}: {error:?}"))?;
    }
    Ok(())
}

fn about(it: &Subject<'_>) -> Checked {
    let answer = it.bare().run_raw(b"");
    want(answer.code == Some(0) && answer.stdout.is_empty() && !answer.stderr.is_empty(), || {
        format!("{answer:?}")
    })
}

fn arguments(it: &Subject<'_>) -> Checked {
    let pairs = [
        "IgnoreUnknown=1",
        "K8S_POD_NAMESPACE=default",
        "K8S_POD_NAME=p",
        "K8S_POD_INFRA_CONTAINER_ID=c",
        "K8S_POD_UID=u",
        "OTHER=x",
    ];
    let (forth, back) = (pairs.join(";"), pairs.iter().rev().copied().collect::<Vec<_>>().join(";"));
    for text in [forth, back] {
        let (id, pod) = (it.container(), it.pod());
        let call = it.call(&id, &pod).env("CNI_ARGS", &text);
        let added = call.run("ADD", &it.conf(it.latest())).try_result();
        let deleted = call.run("DEL", &it.conf(it.latest())).try_done();
        added?;
        deleted?;
    }
    Ok(())
}

fn tracing(it: &Subject<'_>) -> Checked {
    let call = it
        .bare()
        .env("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .env("BAGGAGE", "k=v");
    Ok(call.run("VERSION", &json!({ "cniVersion": it.latest() })).try_result().map(drop)?)
}
