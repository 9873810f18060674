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
        active: std::collections::BTreeMap::new(),
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
fn garbage_other_versions_and_wrong_names_are_put_aside() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path()).unwrap();
    state.save_port(&saved(0)).unwrap();
    let ports = root.path().join(PORTS);
    let good = fs::read_to_string(ports.join("0.json")).unwrap();
    for (name, text) in [
        ("1.json", b"\xff\xfe\x00garbage".to_vec()),
        ("2.json", good.replace("\"version\":2", "\"version\":3").into_bytes()),
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
    let spooled = state.spooled();
    let keys: Vec<String> =
        spooled.iter().filter_map(|it| it.key.as_ref().ok()).map(|key| key.container.clone()).collect();
    assert_eq!(keys, ["c1", "c2"]);
    assert!(spooled.iter().any(|it| it.file == "c.json" && it.key.is_err()));
    state.put_spooled_aside("c.json", "it is garbage");
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
        local_pref: 100,
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

/// A way to spoil a file, and what that is called.
type Way = (String, Box<dyn Fn(&Path)>);

/// Every way to spoil a file of these octets.
fn spoilt(whole: &[u8]) -> Vec<Way> {
    let mut ways: Vec<Way> = Vec::new();
    let mut bytes = |name: String, bytes: Vec<u8>| {
        ways.push((name, Box::new(move |path: &Path| fs::write(path, &bytes).unwrap())));
    };
    for place in 0..whole.len() - 1 {
        bytes(format!("cut to {place}"), whole[..place].to_vec());
        let mut zeroes = whole.to_vec();
        zeroes[place..].fill(0);
        bytes(format!("zeroes from {place}"), zeroes);
        for bit in 0..8 {
            let mut flipped = whole.to_vec();
            flipped[place] ^= 1 << bit;
            bytes(format!("octet {place}, bit {bit} flipped"), flipped);
        }
    }
    bytes("the same twice".to_owned(), whole.repeat(2));
    bytes("larger than any".to_owned(), vec![b' '; 33 << 20]);
    ways.push(("a directory".to_owned(), Box::new(|path| fs::create_dir(path).unwrap())));
    let inside = |path: &Path| fs::create_dir_all(path.join("inside")).unwrap();
    ways.push(("a directory that is not empty".to_owned(), Box::new(inside)));
    let link = |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap();
    ways.push(("a link to zeroes without end".to_owned(), Box::new(link)));
    let dangling = |path: &Path| std::os::unix::fs::symlink("nowhere", path).unwrap();
    ways.push(("a link to nothing".to_owned(), Box::new(dangling)));
    let pipe =
        |path: &Path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    ways.push(("a pipe without a writer".to_owned(), Box::new(pipe)));
    let sparse = |path: &Path| File::create(path).unwrap().set_len(1 << 40).unwrap();
    ways.push(("a terabyte of nothing".to_owned(), Box::new(sparse)));
    ways
}

fn clear(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
}

/// Spoils one file in every way, and checks that it is put aside and said, and that the rest is as it was.
fn spoil(name: &str, check: impl Fn(&StateDir, &Loaded, &str)) {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path()).unwrap();
    state.save_port(&saved(0)).unwrap();
    state.save_port(&saved(1)).unwrap();
    state.save_labels(Label::new(80).unwrap()).unwrap();
    state.save_routes(&routes()).unwrap();
    drop(state);
    let path = root.path().join(name);
    let whole = fs::read(&path).unwrap();
    for (way, spoil) in spoilt(&whole) {
        clear(&path);
        spoil(&path);
        let state = StateDir::open(root.path()).unwrap();
        assert!(state.problems().is_empty(), "{name}, {way}: before");
        let loaded = state.load().unwrap();
        let said = state.problems();
        assert!(said.len() == 1 && said[0].contains(name), "{name}, {way}: {said:?}");
        let bad = root.path().join(format!("{name}.bad"));
        assert!(fs::symlink_metadata(&bad).is_ok(), "{name}, {way}: not put aside");
        check(&state, &loaded, &way);
        drop(state);
        let said = StateDir::open(root.path()).unwrap().problems();
        assert!(
            said.len() == 1 && said[0].contains(name),
            "{name}, {way}: forgotten by the next run: {said:?}"
        );
        clear(&bad);
    }
}

fn routes() -> SavedRoutes {
    let path = crate::event::VrfPath {
        rd: "192.0.2.1:1".parse().unwrap(),
        next_hop: "192.0.2.1".parse().unwrap(),
        label: Label::new(100).unwrap(),
        encaps: vrouter_types::Encap::ALL.into_iter().collect(),
        local: false,
        local_pref: 100,
    };
    let routes = vec![("10.8.0.0/16".parse().unwrap(), vec![path])];
    let import = vec!["target:64512:100".parse().unwrap()];
    SavedRoutes { stale_msec: 77, vrfs: vec![SavedVrf { name: "city".to_owned(), import, routes }] }
}

#[test]
fn a_spoilt_port_file_costs_that_port_and_nothing_else() {
    spoil("ports/1.json", |state, loaded, way| {
        assert_eq!(loaded.ports, [saved(0)], "{way}");
        assert_eq!((loaded.label_cursor, &loaded.routes), (Label::new(80).ok(), &routes()), "{way}");
        state.save_port(&saved(1)).unwrap_or_else(|error| panic!("{way}: its number is lost: {error}"));
        assert_eq!(state.load().unwrap().ports, [saved(0), saved(1)], "{way}");
    });
}

#[test]
fn a_spoilt_label_file_costs_no_port() {
    spoil("labels.json", |state, loaded, way| {
        assert_eq!((loaded.ports.len(), loaded.label_cursor), (2, None), "{way}");
        state.save_labels(Label::new(80).unwrap()).unwrap();
    });
}

#[test]
fn a_spoilt_route_file_costs_no_port() {
    spoil("routes.json", |state, loaded, way| {
        assert_eq!((loaded.ports.len(), &loaded.routes), (2, &SavedRoutes::default()), "{way}");
        state.save_routes(&routes()).unwrap();
    });
}

#[test]
fn a_lost_label_file_without_ports_does_not_begin_with_the_first_label_again() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path()).unwrap();
    assert_eq!(state.load().unwrap().label_cursor, None, "a new node begins with the first");
    fs::write(root.path().join(LABELS), "{").unwrap();
    assert!(state.load().unwrap().label_cursor.is_some_and(|label| label.value() >= 0x4000));
}

#[test]
fn what_stands_where_directories_and_drafts_should_be_is_put_aside() {
    for name in ["ports", "deletes"] {
        let root = tempfile::tempdir().unwrap();
        for (way, spoil) in spoilt(b"x{}").into_iter().filter(|(way, _)| !way.contains("a directory")) {
            clear(&root.path().join(name));
            clear(&root.path().join(format!("{name}.bad")));
            spoil(&root.path().join(name));
            let state = StateDir::open(root.path()).unwrap_or_else(|error| panic!("{name}, {way}: {error}"));
            assert!(state.problems().iter().any(|said| said.contains(name)), "{way}: {:?}", state.problems());
            assert_eq!(state.load().unwrap().ports, []);
            state.save_port(&saved(0)).unwrap();
            state.forget_port(PortId(0)).unwrap();
        }
    }
    let root = tempfile::tempdir().unwrap();
    drop(StateDir::open(root.path()).unwrap());
    for draft in ["ports/0.new", "labels.new", "deletes/vr0.tmp"] {
        for (way, spoil) in spoilt(b"{}") {
            clear(&root.path().join(draft));
            clear(&root.path().join(format!("{draft}.bad")));
            spoil(&root.path().join(draft));
            let state = StateDir::open(root.path()).unwrap();
            assert!(
                fs::symlink_metadata(root.path().join(draft)).is_err(),
                "{draft}, {way}: it is still there"
            );
            state.save_port(&saved(0)).unwrap_or_else(|error| panic!("{draft}, {way}: {error}"));
            state
                .save_labels(Label::new(80).unwrap())
                .unwrap_or_else(|error| panic!("{draft}, {way}: {error}"));
        }
    }
}

#[test]
fn files_of_the_version_before_which_had_no_check_are_read() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path()).unwrap();
    let old = serde_json::to_vec(&Versioned { version: 1, content: saved(0) }).unwrap();
    fs::write(root.path().join("ports/0.json"), &old).unwrap();
    let text = String::from_utf8(old).unwrap().replace("\"version\":1", "\"version\":2");
    fs::write(root.path().join("ports/1.json"), text).unwrap();
    assert_eq!(state.load().unwrap().ports, [saved(0)]);
    assert!(state.problems()[0].contains("check is missing"), "{:?}", state.problems());
}

#[test]
fn what_would_not_be_read_back_is_refused_and_what_was_there_stays() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(root.path()).unwrap();
    state.save_port(&saved(0)).unwrap();
    let mut long = saved(0);
    long.request.name = Some("x".repeat(usize::try_from(MAX_FILE).unwrap()));
    assert_eq!(state.save_port(&long).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert!(state.is_writable(), "the directory is as good as before");
    assert_eq!(state.load().unwrap().ports, [saved(0)]);
    assert_eq!(names(&root.path().join(PORTS)), ["0.json"]);
}
