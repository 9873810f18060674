use std::os::unix::fs::PermissionsExt;

use agent_api::{AttachPort, PortKind};

use super::*;

fn saved(port: u32) -> SavedPort {
    SavedPort {
        port: PortId(port),
        label: Label::new(16 + port).unwrap(),
        vrf: "smart-city".to_owned(),
        addresses: vec!["10.20.11.2".parse().unwrap()],
        mtu: 1468,
        sequence: u64::from(port),
        boot_id: "a".to_owned(),
        request: AttachPort {
            netns: Some("/run/netns/x".to_owned()),
            ..AttachPort::new(
                PortKey { container: format!("c{port}"), interface: "eth0".to_owned() },
                PortKind::Pod,
                format!("vr{port}"),
                "02:00:00:00:00:01".parse().unwrap(),
            )
        },
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_saved_is_loaded_and_what_was_forgotten_is_not() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path()).unwrap();
    for port in [2, 0, 1] {
        state.save_port(&saved(port)).unwrap();
    }
    state.save_labels(Label::new(80).unwrap()).unwrap();
    state.forget_port(PortId(1)).unwrap();
    state.forget_port(PortId(1)).unwrap();
    drop(state);
    let loaded = StateDir::open(root.path()).unwrap().load().unwrap();
    assert_eq!(loaded.ports, [saved(0), saved(2)]);
    assert_eq!(loaded.label_cursor, Some(Label::new(80).unwrap()));
}

#[test]
fn every_truncation_of_a_port_file_is_put_aside_and_the_others_load() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path()).unwrap();
    state.save_port(&saved(0)).unwrap();
    state.save_port(&saved(1)).unwrap();
    let file = state.port_file(PortId(1));
    let whole = fs::read(&file).unwrap();
    let text = whole.trim_ascii_end();
    for length in 0..text.len() {
        fs::write(&file, &text[..length]).unwrap();
        assert_eq!(state.load().unwrap().ports, [saved(0)], "{length} octets");
        assert_eq!(names(&root.path().join(PORTS)), ["0.json", "1.json.bad"]);
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(state.load().unwrap().ports, [saved(0), saved(1)]);
}

#[test]
fn garbage_other_versions_and_wrong_names_are_put_aside() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path()).unwrap();
    state.save_port(&saved(0)).unwrap();
    let ports = root.path().join(PORTS);
    let good = fs::read_to_string(ports.join("0.json")).unwrap();
    for (name, text) in [
        ("1.json", b"\xff\xfe\x00garbage".to_vec()),
        ("2.json", good.replace("\"version\":1", "\"version\":2").into_bytes()),
        ("3.json", good.clone().into_bytes()),
        ("4.json", vec![b' '; 300 << 10]),
        ("5.json", good.replace("\"label\":16", "\"label\":1048576").into_bytes()),
        ("6.json", b"[]".to_vec()),
    ] {
        assert_ne!(text, good.as_bytes().to_vec().repeat(2), "{name}");
        fs::write(ports.join(name), text).unwrap();
    }
    fs::write(root.path().join(LABELS), "{").unwrap();
    let loaded = state.load().unwrap();
    assert_eq!(loaded, Loaded { ports: vec![saved(0)], ..Loaded::default() });
    let bad: Vec<String> = (1..=6).map(|name| format!("{name}.json.bad")).collect();
    assert_eq!(names(&ports)[1..], bad);
    assert!(root.path().join("labels.json.bad").exists());
}

#[test]
fn a_write_that_a_crash_cut_short_leaves_the_old_file() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path()).unwrap();
    state.save_port(&saved(0)).unwrap();
    fs::write(root.path().join(PORTS).join("0.new"), b"{\"version\":1,\"po").unwrap();
    assert_eq!(state.load().unwrap().ports, [saved(0)]);
    state.save_port(&saved(0)).unwrap();
    assert_eq!(names(&root.path().join(PORTS)), ["0.json"]);
}

#[test]
fn spooled_deletes_are_read_once_each_and_garbage_is_put_aside() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path()).unwrap();
    let spool = root.path().join(DELETES);
    fs::write(spool.join("b.json"), r#"{"container":"c2","interface":"eth0"}"#).unwrap();
    fs::write(spool.join("a.json"), r#"{"container":"c1","interface":"eth0"}"#).unwrap();
    fs::write(spool.join("c.json"), "no").unwrap();
    fs::write(spool.join("d.tmp"), "half").unwrap();
    let files: Vec<String> = state.spooled().into_iter().map(|spooled| spooled.key.container).collect();
    assert_eq!(files, ["c1", "c2"]);
    state.remove_spooled("a.json").unwrap();
    assert_eq!(names(&spool), ["b.json", "c.json.bad", "d.tmp"]);
}

#[test]
fn a_second_agent_is_refused_until_the_first_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let first = StateDir::open(root.path()).unwrap();
    assert!(matches!(StateDir::open(root.path()), Err(Error::Locked(_))));
    drop(first);
    assert!(StateDir::open(root.path()).is_ok());
}

#[test]
fn nobody_else_may_read_what_is_written() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(&root.path().join("state")).unwrap();
    state.save_port(&saved(0)).unwrap();
    for (path, mode) in [("state", 0o700), ("state/ports", 0o700), ("state/ports/0.json", 0o600)] {
        let permissions = fs::metadata(root.path().join(path)).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn imported_routes_come_back_with_their_age_and_no_routes_are_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let path = crate::event::VrfPath {
        rd: "192.0.2.1:1".parse().unwrap(),
        next_hop: "192.0.2.1".parse().unwrap(),
        label: Label::new(100).unwrap(),
        encaps: vrouter_types::Encap::ALL.into_iter().collect(),
        local: false,
    };
    let vrf = SavedVrf {
        name: "city".to_owned(),
        import: vec!["target:64512:100".parse().unwrap()],
        routes: vec![("10.8.0.0/16".parse().unwrap(), vec![path])],
    };
    let saved = SavedRoutes { stale_msec: 77, vrfs: vec![vrf] };
    state.save_routes(&saved).unwrap();
    assert_eq!(state.load().unwrap().routes, saved);
    state.save_routes(&SavedRoutes::default()).unwrap();
    assert!(!dir.path().join("routes.json").exists());
    assert_eq!(state.load().unwrap().routes, SavedRoutes::default());
    std::fs::write(dir.path().join("routes.json"), "{\"version\":1,\"vrfs\":[").unwrap();
    assert_eq!(state.load().unwrap().routes, SavedRoutes::default());
    assert!(dir.path().join("routes.json.bad").exists(), "put aside, and no reason not to start");
}
