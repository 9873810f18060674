//! Which headers go on to the metadata service, and which we add.

use hmac::{Hmac, Mac};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

use crate::config::MetadataConfig;
use crate::vm::Machine;

const INSTANCE: HeaderName = HeaderName::from_static("x-instance-id");
const SIGNATURE: HeaderName = HeaderName::from_static("x-instance-id-signature");
const TENANT: HeaderName = HeaderName::from_static("x-tenant-id");
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");
/// By which nova knows neutron's other proxies. A machine must not pass for one.
const PROVIDER: [&str; 2] = ["x-metadata-provider", "x-metadata-provider-signature"];
/// RFC 9110 §7.6.1: meant for the next hop only.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What nova compares: HMAC-SHA256 of the instance's identifier, in hexadecimal digits.
pub fn signature(secret: &[u8], instance: &str) -> String {
    // A key of any length will do, also none.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(instance.as_bytes());
    mac.finalize().into_bytes().iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Writes the headers of a request; `None` where what we know of the machine fits no header.
pub(super) fn set(
    headers: &mut HeaderMap,
    asked: &HeaderMap,
    machine: &Machine,
    instance: &str,
    service: &MetadataConfig,
) -> Option<()> {
    for (name, value) in asked.iter().filter(|(name, _)| passes(name, asked)) {
        headers.append(name, value.clone());
    }
    let host = if service.host.contains(':') { format!("[{}]", service.host) } else { service.host.clone() };
    let secret = service.secret.as_ref().map_or(&[][..], |secret| &secret.0);
    headers.insert(HOST, value(&format!("{host}:{}", service.port))?);
    headers.insert(INSTANCE, value(instance)?);
    headers.insert(SIGNATURE, value(&signature(secret, instance))?);
    if let Some(project) = &machine.project {
        headers.insert(TENANT, value(project)?);
    }
    if let Some(address) = machine.address {
        headers.insert(FORWARDED, value(&address.to_string())?);
    }
    Some(())
}

/// Takes out what was meant for us alone.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

fn passes(name: &HeaderName, all: &HeaderMap) -> bool {
    let plain = name.as_str().replace('_', "-");
    let ours = [&INSTANCE, &SIGNATURE, &TENANT, &FORWARDED, &HOST].iter().any(|own| own.as_str() == plain);
    let framing = plain == "content-length" || HOP_BY_HOP.contains(&plain.as_str());
    let named = all.get_all(hyper::header::CONNECTION).iter().any(|value| {
        let tokens = value.to_str().unwrap_or_default().split(',');
        tokens.map(str::trim).any(|token| token.eq_ignore_ascii_case(name.as_str()))
    });
    !ours && !framing && !named && !PROVIDER.contains(&plain.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_of_rfc_4231() {
        // Test case 2.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature(b"Jefe", "what do ya want for nothing?"), expected);
        assert_eq!(signature(b"", "").len(), 64);
    }

    #[test]
    fn what_a_machine_says_of_itself_does_not_go_on() {
        let mut asked = HeaderMap::new();
        for (name, value) in [
            ("x-instance-id", "forged"),
            ("x_instance_id", "forged"),
            ("x-instance_id-signature", "forged"),
            ("x-tenant-id", "forged"),
            ("x_forwarded_for", "forged"),
            ("x-metadata-provider", "forged"),
            ("x_metadata_provider_signature", "forged"),
            ("host", "forged"),
            ("connection", "keep-alive, X-Secret"),
            ("x-secret", "forged"),
            ("transfer-encoding", "forged"),
            ("content-length", "7"),
            ("user-agent", "cloud-init"),
        ] {
            asked.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        asked.append("x-instance-id", HeaderValue::from_static("forged again"));
        let machine = Machine {
            instance: Some("i-1".into()),
            project: Some("p-1".into()),
            address: Some("10.0.0.2".parse().unwrap()),
        };
        let service = MetadataConfig { host: "2001:db8::5".into(), port: 8775, secret: None };
        let mut headers = HeaderMap::new();
        set(&mut headers, &asked, &machine, "i-1", &service).unwrap();
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        all.sort_unstable();
        let signed = signature(b"", "i-1");
        assert_eq!(
            all,
            [
                ("host", "[2001:db8::5]:8775"),
                ("user-agent", "cloud-init"),
                ("x-forwarded-for", "10.0.0.2"),
                ("x-instance-id", "i-1"),
                ("x-instance-id-signature", signed.as_str()),
                ("x-tenant-id", "p-1"),
            ]
        );
        assert_eq!(set(&mut headers, &asked, &machine, "a\nb", &service), None);
    }
}
