//! F and E: what stands on stdin, and what errors look like.

use serde_json::{Value, json};

use super::{Checked, Item, Subject, must, should, want};
use crate::cni_run::CniError;

pub(super) const ITEMS: &[Item] = &[
    must("F1", "a configuration that is no JSON is error 6", |it| refused(it, b"{\"cniVersion\":", &[6])),
    must("F2", "an empty stdin is error 5 or 6", |it| refused(it, b"", &[5, 6])),
    must("F3", "a configuration without a name is error 7", nameless),
    must("F4", "a network's name has the letters of a container ID; else error 7", bad_name),
    must("F5", "a version that it does not speak is error 1", |it| version(it, Some("99.0.0"))),
    must("F6", "a configuration without a version is of 0.1.0", |it| version(it, None)),
    must("F7", "keys that it does not know are no matter", unknown_keys),
    must("F8", "`capabilities` and `runtimeConfig` with what it did not declare are no matter", capabilities),
    should("F9", "runtimeConfig as containerd writes it (CapitalCase) is read or passed over", capital_case),
    must("E1", "errors have cniVersion, code and msg", shape),
    must("E2", "error codes below 100 are the specification's", reserved),
    should("E3", "error 1 says which versions it speaks", versions_listed),
];

fn refused(it: &Subject<'_>, stdin: &[u8], codes: &[u64]) -> Checked {
    let error = it.call("c1", &it.pod()).env("CNI_COMMAND", "ADD").run_raw(stdin).try_error()?;
    want(codes.contains(&error.code), || format!("{error:?}"))
}

fn nameless(it: &Subject<'_>) -> Checked {
    let mut conf = it.conf(it.latest());
    if let Some(keys) = conf.as_object_mut() {
        keys.remove("name");
    }
    refused(it, conf.to_string().as_bytes(), &[7])
}

fn bad_name(it: &Subject<'_>) -> Checked {
    let mut conf = it.conf(it.latest());
    conf["name"] = json!("a/b");
    refused(it, conf.to_string().as_bytes(), &[7])
}

fn version(it: &Subject<'_>, said: Option<&str>) -> Checked {
    let mut conf = it.conf(it.latest());
    match (said, conf.as_object_mut()) {
        (Some(said), _) => conf["cniVersion"] = json!(said),
        (None, Some(keys)) => drop(keys.remove("cniVersion")),
        (None, None) => {}
    }
    if said.is_none() {
        let listed = it.bare().run("VERSION", &json!({ "cniVersion": "1.0.0" })).try_result()?;
        if listed["supportedVersions"].as_array().is_some_and(|list| list.contains(&json!("0.1.0"))) {
            let (id, pod) = (it.container(), it.pod());
            it.call(&id, &pod).run("ADD", &conf).try_result()?;
            return Ok(it.call(&id, &pod).run("DEL", &conf).try_done()?);
        }
    }
    refused(it, conf.to_string().as_bytes(), &[1])
}

/// Adds and deletes with further keys in the configuration.
fn tolerates(it: &Subject<'_>, further: &Value) -> Checked {
    let mut conf = it.conf(it.latest());
    for (key, value) in further.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    let attachment = it.attach_with(&conf)?;
    Ok(attachment.run("DEL").try_done()?)
}

fn unknown_keys(it: &Subject<'_>) -> Checked {
    tolerates(it, &json!({ "x-unknown": { "a": [1] }, "cni.dev/unknown": true }))
}

fn capabilities(it: &Subject<'_>) -> Checked {
    tolerates(
        it,
        &json!({
            "capabilities": { "portMappings": true, "bandwidth": true, "dns": true },
            "runtimeConfig": {
                "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
                "bandwidth": { "ingressRate": 1_000_000, "ingressBurst": 1_000_000, "egressRate": 0, "egressBurst": 0 },
                "dns": { "servers": ["10.0.0.10"], "searches": ["a.local"], "options": ["ndots:5"] },
                "cgroupPath": "/kubepods/x", "aliases": ["a"],
                "io.kubernetes.cri.pod-annotations": { "example.org/x": "y" },
            },
        }),
    )
}

fn capital_case(it: &Subject<'_>) -> Checked {
    tolerates(
        it,
        &json!({ "runtimeConfig": {
            "portMappings": [{ "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }],
            "bandwidth": { "IngressRate": 0, "IngressBurst": 0, "EgressRate": 0, "EgressBurst": 4_294_967_295_u64 },
            "dns": { "Servers": null, "Searches": null, "Options": null },
        } }),
    )
}

/// One of each kind that can be had from outside.
fn errors(it: &Subject<'_>) -> Result<Vec<CniError>, String> {
    let call = it.call("c1", &it.pod());
    let conf = it.conf(it.latest());
    let mut other = conf.clone();
    other["cniVersion"] = json!("99.0.0");
    [
        call.clone().without("CNI_IFNAME").run("ADD", &conf),
        call.run("NONSENSE", &conf),
        call.clone().env("CNI_COMMAND", "ADD").run_raw(b"nonsense"),
        call.run("ADD", &other),
        call.env("CNI_NETNS", "/run/netns/absent").run("ADD", &conf),
    ]
    .iter()
    .map(crate::cni_run::CniAnswer::try_error)
    .collect()
}

fn shape(it: &Subject<'_>) -> Checked {
    for error in errors(it)? {
        want(!error.version.is_empty() && !error.msg.is_empty(), || format!("{error:?}"))?;
    }
    Ok(())
}

fn reserved(it: &Subject<'_>) -> Checked {
    // 8 is the Go library's for a bad namespace.
    let known = [1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51];
    for error in errors(it)? {
        want(error.code >= 100 || known.contains(&error.code), || format!("{error:?}"))?;
    }
    Ok(())
}

fn versions_listed(it: &Subject<'_>) -> Checked {
    let mut conf = it.conf(it.latest());
    conf["cniVersion"] = json!("99.0.0");
    let error = it.call("c1", &it.pod()).run("ADD", &conf).try_error()?;
    let words = format!("{} {}", error.msg, error.details);
    want(it.versions().iter().all(|version| words.contains(version)), || format!("{error:?}"))
}
