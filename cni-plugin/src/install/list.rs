//! The network configuration list that is installed, and whether one is still as it was.

use serde_json::{Value, json};

use crate::name::fnv;

/// libcni passes over keys that it does not know.
const CHECKSUM: &str = "vrouter.dev/checksum";
const SHIPPED: &str = include_str!("../../10-vrouter.conflist");

/// The list, with another socket and further plugins where they are wanted.
pub(super) fn make(socket: Option<&str>, chain: &[String]) -> String {
    // It is part of the program, and a test reads it.
    let mut list: Value = serde_json::from_str(SHIPPED).unwrap_or_default();
    if let Some(plugins) = list["plugins"].as_array_mut() {
        if let (Some(socket), Some(ours)) = (socket, plugins.first_mut()) {
            ours["socket"] = json!(socket);
        }
        plugins.extend(chain.iter().map(|name| chained(name)));
    }
    list[CHECKSUM] = json!(checksum(&list));
    format!("{list:#}\n")
}

/// With the capabilities that the reference plugins of these names take.
fn chained(name: &str) -> Value {
    match name {
        "portmap" => json!({ "type": name, "capabilities": { "portMappings": true }, "snat": true }),
        _ => json!({ "type": name }),
    }
}

/// Whether nobody has changed it since [`make`] made it.
pub(super) fn is_untouched(text: &[u8]) -> bool {
    let Ok(Value::Object(mut list)) = serde_json::from_slice(text) else { return false };
    let Some(Value::String(said)) = list.remove(CHECKSUM) else { return false };
    said == checksum(&Value::Object(list))
}

/// Against accidents, not against attacks. Objects are in order of their keys, so only content counts.
fn checksum(list: &Value) -> String {
    format!("{:016x}", fnv(list.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_knows_whether_it_was_changed() {
        let list = make(None, &[]);
        assert!(is_untouched(list.as_bytes()));
        assert!(is_untouched(list.replace("  ", "\t").as_bytes()), "blanks are no change");
        assert!(!is_untouched(list.replace("0.4.0", "1.0.0").as_bytes()));
        for text in [&b""[..], b"{}", b"[]", SHIPPED.as_bytes(), b"{\"vrouter.dev/checksum\":7}"] {
            assert!(!is_untouched(text));
        }
    }

    #[test]
    fn socket_and_chain_are_as_asked() {
        let list = make(Some("/run/x.sock"), &["portmap".to_owned(), "tuning".to_owned()]);
        let list: Value = serde_json::from_str(&list).unwrap();
        let types: Vec<_> = list["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|plugin| plugin["type"].as_str().unwrap())
            .collect();
        assert_eq!(types, ["vrouter-cni", "portmap", "tuning"]);
        assert_eq!(list["plugins"][0]["socket"], "/run/x.sock");
        assert_eq!(list["plugins"][1]["capabilities"]["portMappings"], true);
    }
}
