//! What OpenStack has said.

use std::fmt::Write as _;

use agent_api::{AttachmentStatus, OpenStack, TapStatus};

use crate::table::{Table, list, maybe};

/// `show openstack`.
pub(crate) fn openstack(reply: &OpenStack) -> String {
    if reply.taps.is_empty() && reply.instances.is_empty() {
        return "OpenStack has said nothing.\n".to_owned();
    }
    let mut taps = Table::new(["Tap", ">Port", "VRF", "Addresses", "Machine", "Network", "State"]);
    for tap in &reply.taps {
        let plug = tap.plug.as_ref();
        taps.row([
            tap.interface.clone(),
            maybe(tap.port),
            tap.vrf.clone().unwrap_or_else(|| "-".to_owned()),
            list(&tap.addresses),
            maybe(plug.map(|plug| plug.name.clone())),
            maybe(plug.map(|plug| plug.network.clone())),
            tap.state.clone(),
        ]);
    }
    let mut text = taps.render();
    text.push_str(&attachments(&reply.taps));
    if !reply.instances.is_empty() {
        let mut table = Table::new(["Instance", "RD", "Import", "Export", ">Attachments", "From"]);
        for instance in &reply.instances {
            table.row([
                instance.name.clone(),
                maybe(instance.rd),
                list(&instance.import),
                list(&instance.export),
                instance.attachments.to_string(),
                if instance.configured { "configuration file" } else { "VPN API" }.to_owned(),
            ]);
        }
        let _ = write!(text, "\n{}", table.render());
    }
    text
}

fn attachments(taps: &[TapStatus]) -> String {
    let mut table = Table::new(["Tap", "Instance", "Announces", "Direction", ">Preference"]);
    for (tap, it) in taps.iter().flat_map(|tap| tap.attachments.iter().map(move |it| (tap, it))) {
        let AttachmentStatus { instance, prefix, direction, local_pref } = it;
        let announced = if direction == "from-port" { "-".to_owned() } else { prefix.to_string() };
        table.row([
            tap.interface.clone(),
            instance.clone(),
            announced,
            direction.clone(),
            maybe(*local_pref),
        ]);
    }
    if table.is_empty() { String::new() } else { format!("\n{}", table.render()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_api::InstanceStatus;

    #[test]
    fn taps_say_what_they_wait_for_and_instances_where_their_word_comes_from() {
        assert_eq!(
            openstack(&OpenStack { taps: Vec::new(), instances: Vec::new() }),
            "OpenStack has said nothing.\n"
        );
        let tap = TapStatus {
            interface: "tap1".into(),
            state: "network x has no VRF".into(),
            port: None,
            vrf: None,
            label: None,
            mac: None,
            addresses: Vec::new(),
            plug: None,
            attachments: vec![AttachmentStatus {
                instance: "red".into(),
                prefix: "10.0.0.5/32".parse().unwrap(),
                direction: "to-port".into(),
                local_pref: Some(70),
            }],
        };
        let instance = InstanceStatus {
            name: "red".into(),
            rd: Some("192.0.2.11:32768".parse().unwrap()),
            import: vec!["target:64512:1".parse().unwrap()],
            export: Vec::new(),
            attachments: 1,
            configured: false,
            description: None,
        };
        let text = openstack(&OpenStack { taps: vec![tap], instances: vec![instance] });
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert!(lines[1].starts_with("tap1") && lines[1].ends_with("network x has no VRF"), "{text}");
        assert!(text.contains("10.0.0.5/32  to-port            70"), "{text}");
        assert!(text.contains("192.0.2.11:32768  target:64512:1"), "{text}");
    }
}
