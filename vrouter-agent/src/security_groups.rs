//! Security groups as they are given: what is wrong with one, and what its words mean.

use agent_api::{DEFAULT_SECURITY_GROUP, RuleDirection, RuleFamily, SecurityGroup, SecurityRule};

/// Bounds of what one group may say, and of how many there may be.
const MAX_NAME: usize = 64;
/// Rules of one group.
const MAX_RULES: usize = 256;
/// Members that are given.
const MAX_MEMBERS: usize = 1024;
/// Groups.
pub const MAX_GROUPS: usize = 1024;
/// Groups that one port may be in.
pub const MAX_OF_PORT: usize = 32;

/// The group that is there without anybody making it.
pub fn built_in() -> SecurityGroup {
    let rule = |direction, family, remote_group| SecurityRule {
        direction,
        family,
        protocol: None,
        port_min: None,
        port_max: None,
        icmp_type: None,
        icmp_code: None,
        remote_prefix: None,
        remote_group,
    };
    let families = [RuleFamily::Ipv4, RuleFamily::Ipv6];
    let own = || Some(DEFAULT_SECURITY_GROUP.to_owned());
    let egress = families.map(|family| rule(RuleDirection::Egress, family, None));
    let ingress = families.map(|family| rule(RuleDirection::Ingress, family, own()));
    SecurityGroup {
        name: DEFAULT_SECURITY_GROUP.to_owned(),
        description: Some("all out, and in from members of the same group".to_owned()),
        rules: egress.into_iter().chain(ingress).collect(),
        members: Vec::new(),
    }
}

/// Whether a group may be called this.
pub fn check_name(name: &str) -> Result<(), String> {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.chars().all(legal) {
        return Err(format!(
            "{name:?} is no name of a security group (1 to {MAX_NAME} letters, digits, '-', '_' and '.', not '.' \
             first)"
        ));
    }
    Ok(())
}

/// Whether a group makes sense; if not, which rule and what to write instead.
pub fn check(group: &SecurityGroup) -> Result<(), String> {
    check_name(&group.name)?;
    for (what, count, most) in
        [("rules", group.rules.len(), MAX_RULES), ("members", group.members.len(), MAX_MEMBERS)]
    {
        if count > most {
            return Err(format!(
                "{count} {what} are more than the {most} that a group may have; use two groups"
            ));
        }
    }
    for (number, rule) in (1..).zip(&group.rules) {
        check_rule(rule).map_err(|error| format!("rule {number}: {error}"))?;
    }
    Ok(())
}

fn check_rule(rule: &SecurityRule) -> Result<(), String> {
    let protocol = protocol(rule)?;
    let has_ports = matches!(protocol, Some(6 | 17 | 33 | 132 | 136));
    if (rule.port_min.is_some() || rule.port_max.is_some()) && !has_ports {
        return Err("ports need a protocol that has them, like \"protocol\": \"tcp\"".to_owned());
    }
    match (rule.port_min, rule.port_max) {
        (None, Some(_)) => return Err("portMax needs portMin".to_owned()),
        (Some(first), Some(last)) if first > last => {
            return Err(format!("portMin {first} is above portMax {last}"));
        }
        _ => {}
    }
    let is_icmp = protocol == Some(if rule.family == RuleFamily::Ipv4 { 1 } else { 58 });
    if (rule.icmp_type.is_some() || rule.icmp_code.is_some()) && !is_icmp {
        return Err("icmpType and icmpCode need \"protocol\": \"icmp\"".to_owned());
    }
    if rule.icmp_code.is_some() && rule.icmp_type.is_none() {
        return Err("icmpCode needs icmpType".to_owned());
    }
    match (&rule.remote_prefix, &rule.remote_group) {
        (Some(_), Some(_)) => {
            Err("remotePrefix and remoteGroup exclude each other; write two rules".to_owned())
        }
        (Some(prefix), None) if prefix.is_ipv4() != (rule.family == RuleFamily::Ipv4) => {
            Err(format!("remotePrefix {prefix} is not of the rule's family"))
        }
        (None, Some(group)) => check_name(group),
        _ => Ok(()),
    }
}

/// The number of the protocol that a rule names.
pub fn protocol(rule: &SecurityRule) -> Result<Option<u8>, String> {
    let Some(name) = &rule.protocol else { return Ok(None) };
    let v4 = rule.family == RuleFamily::Ipv4;
    Ok(Some(match name.to_ascii_lowercase().as_str() {
        "any" => return Ok(None),
        "icmp" if v4 => 1,
        // Neutron says either for IPv6.
        "icmp" | "icmpv6" | "ipv6-icmp" => 58,
        "igmp" => 2,
        "ipip" => 4,
        "tcp" => 6,
        "udp" => 17,
        "dccp" => 33,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "ospf" => 89,
        "vrrp" => 112,
        "sctp" => 132,
        "udplite" => 136,
        number => number.parse().map_err(|_| {
            format!("protocol {name:?} is not known; write its number, or tcp, udp, icmp, icmpv6, sctp, gre, esp, ah")
        })?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rule: &str) -> Result<(), String> {
        let text = format!("{{\"name\": \"web\", \"rules\": [{rule}]}}");
        let group: SecurityGroup = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        check(&group)
    }

    #[test]
    fn what_makes_sense_is_taken() {
        for rule in [
            r#"{"direction": "ingress", "family": "ipv4"}"#,
            r#"{"direction": "egress", "family": "ipv6", "protocol": "tcp", "portMin": 80, "portMax": 90}"#,
            r#"{"direction": "ingress", "family": "ipv4", "protocol": "17", "portMin": 53}"#,
            r#"{"direction": "ingress", "family": "ipv6", "protocol": "icmp", "icmpType": 128, "icmpCode": 0}"#,
            r#"{"direction": "ingress", "family": "ipv4", "remotePrefix": "10.0.0.0/8"}"#,
            r#"{"direction": "ingress", "family": "ipv4", "protocol": "any", "remoteGroup": "web"}"#,
        ] {
            assert_eq!(read(rule), Ok(()), "{rule}");
        }
        assert_eq!(check(&built_in()), Ok(()));
    }

    #[test]
    fn every_mistake_is_told_with_what_to_do() {
        for (rest, told) in [
            (r#", "protocol": "tpc""#, "rule 1: protocol \"tpc\" is not known; write its number, or tcp"),
            (r#", "portMin": 80"#, "ports need a protocol that has them"),
            (r#", "protocol": "icmp", "portMin": 80"#, "ports need a protocol that has them"),
            (r#", "protocol": "tcp", "portMax": 80"#, "portMax needs portMin"),
            (r#", "protocol": "tcp", "portMin": 81, "portMax": 80"#, "portMin 81 is above portMax 80"),
            (r#", "protocol": "tcp", "icmpType": 8"#, "icmpType and icmpCode need"),
            (r#", "protocol": "icmp", "icmpCode": 8"#, "icmpCode needs icmpType"),
            (r#", "remotePrefix": "fd00::/8""#, "is not of the rule's family"),
            (r#", "remotePrefix": "10.0.0.0/8", "remoteGroup": "web""#, "exclude each other"),
            (r#", "remoteGroup": "../etc""#, "is no name of a security group"),
            (r#", "port": 80"#, "unknown field `port`"),
        ] {
            let error = read(&format!(r#"{{"direction": "ingress", "family": "ipv4"{rest}}}"#)).unwrap_err();
            assert!(error.contains(told), "{rest}: {error}");
        }
    }

    #[test]
    fn names_cannot_leave_their_directory_and_groups_are_bounded() {
        for name in ["", ".", "..", "../ports/1", "a/b", ".hidden", "a b", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        let rule = built_in().rules[0].clone();
        let many = SecurityGroup { name: "many".into(), rules: vec![rule; 257], ..SecurityGroup::default() };
        assert!(check(&many).unwrap_err().contains("257 rules are more than the 256"));
    }
}
