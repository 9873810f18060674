//! `explain`, path by path.

use std::fmt::Write as _;

use agent_api::{ExplainedPath, Explanation};

use crate::table::list;

/// `explain`.
pub(crate) fn explanation(reply: &Explanation) -> String {
    let imports = if reply.imports.is_empty() { "nothing".to_owned() } else { list(&reply.imports) };
    let mut text = format!("{} in VRF {}, which imports {imports}:\n", reply.prefix, reply.vrf);
    for sentence in &reply.verdict {
        let _ = writeln!(text, "  {sentence}");
    }
    for candidate in &reply.candidates {
        text.push_str(&path(candidate));
    }
    text
}

fn path(it: &ExplainedPath) -> String {
    let label = it.path.remote_label.map(|label| format!(" label {label}")).unwrap_or_default();
    let mut text = format!("\n{} from {}, via {}{label}\n", it.network, it.path.peer, it.path.nexthop);
    let _ = writeln!(text, "  route targets {}", list(&it.path.route_targets));
    let _ = match &it.not_used {
        None => writeln!(text, "  carries the VRF's traffic"),
        Some(why) => writeln!(text, "  not used: {why}"),
    };
    let _ = match &it.not_best {
        None => writeln!(text, "  the best under its route distinguisher"),
        Some(why) => writeln!(text, "  not the best under its route distinguisher: {why}"),
    };
    for (neighbor, told) in &it.advertised {
        let _ = match told.as_str() {
            "advertised" => writeln!(text, "  advertised to {neighbor}"),
            why => writeln!(text, "  not advertised to {neighbor}: {why}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use agent_api::BgpPath;

    use super::*;

    #[test]
    fn every_path_says_why_it_is_or_is_not_used_and_told() {
        let path = BgpPath {
            route: None,
            bestpath: true,
            stale: false,
            peer: "192.0.2.1".into(),
            nexthop: "192.0.2.7".parse().unwrap(),
            remote_label: None,
            loc_prf: Some(100),
            med: None,
            aspath: String::new(),
            origin: "IGP".into(),
            route_targets: vec!["target:64512:100".parse().unwrap()],
            encapsulations: vec![],
            originator_id: None,
            imported_by: vec![],
            age_msec: None,
        };
        let used = ExplainedPath {
            network: "64512:1:10.0.0.0/8".into(),
            path,
            imported: true,
            not_used: None,
            not_best: None,
            advertised: [("192.0.2.1".parse().unwrap(), "the neighbor's own route".to_owned())].into(),
        };
        let lost = ExplainedPath {
            not_used: Some("lower LOCAL_PREF (RFC 4271 §9.1.1)".into()),
            not_best: Some("higher ORIGIN (step b)".into()),
            advertised: [].into(),
            ..used.clone()
        };
        let reply = Explanation {
            vrf: "city".into(),
            prefix: "10.0.0.0/8".parse().unwrap(),
            imports: vec![],
            verdict: vec!["it forwards as BGP says".into()],
            candidates: vec![used, lost],
        };
        let expected = "\
10.0.0.0/8 in VRF city, which imports nothing:
  it forwards as BGP says

64512:1:10.0.0.0/8 from 192.0.2.1, via 192.0.2.7
  route targets target:64512:100
  carries the VRF's traffic
  the best under its route distinguisher
  not advertised to 192.0.2.1: the neighbor's own route

64512:1:10.0.0.0/8 from 192.0.2.1, via 192.0.2.7
  route targets target:64512:100
  not used: lower LOCAL_PREF (RFC 4271 §9.1.1)
  not the best under its route distinguisher: higher ORIGIN (step b)
";
        assert_eq!(explanation(&reply), expected);
    }
}
