use super::*;

struct Scratch {
    _directory: tempfile::TempDir,
    from: PathBuf,
    places: Places,
}

fn scratch(programs: &[&str]) -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let (from, root) = (directory.path().join("build"), directory.path().join("root"));
    fs::create_dir(&from).unwrap();
    for program in programs {
        fs::write(from.join(program), format!("#!{program} 1")).unwrap();
    }
    let places = Places { prefix: "/usr/local".into(), root: Some(root) };
    Scratch { _directory: directory, from, places }
}

impl Scratch {
    fn install(&self) -> Vec<String> {
        let mut said = Vec::new();
        install(&self.places, &self.from, true, &mut |line| said.push(self.short(line))).unwrap();
        said
    }

    fn uninstall(&self) -> Vec<String> {
        let mut said = Vec::new();
        uninstall(&self.places, &mut |line| said.push(self.short(line))).unwrap();
        said
    }

    fn short(&self, line: &str) -> String {
        let root = self.places.root.as_ref().unwrap().to_string_lossy().into_owned();
        line.replace(&root, "").replace(&*self.from.to_string_lossy(), "BUILD")
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.places.at(path)).unwrap()
    }
}

#[test]
fn everything_goes_to_its_place_once() {
    let scratch = scratch(&PROGRAMS);
    assert_eq!(
        scratch.install(),
        [
            "installed /usr/local/bin/vrouter-agent",
            "installed /usr/local/bin/vrouterctl",
            "installed /usr/local/bin/vrouter-cni",
            "installed /etc/systemd/system/vrouter-agent.service",
            "installed /etc/vrouter/agent.toml",
        ]
    );
    let unit = scratch.read("/etc/systemd/system/vrouter-agent.service");
    assert!(unit.contains("\nExecStart=/usr/local/bin/vrouter-agent --config /etc/vrouter/agent.toml\n"));
    assert!(!unit.contains('@') || unit.contains("SystemCallFilter=@system-service"));
    assert!(!unit.contains("@BIN@"));
    let mode = fs::metadata(scratch.places.at("/usr/local/bin/vrouterctl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    let again = scratch.install();
    assert!(again[..4].iter().all(|line| line.starts_with("unchanged ")), "{again:#?}");
    assert_eq!(again[4], "kept /etc/vrouter/agent.toml");
}

#[test]
fn an_upgrade_replaces_what_differs_and_keeps_the_operators_configuration() {
    let scratch = scratch(&PROGRAMS);
    scratch.install();
    fs::write(scratch.from.join("vrouterctl"), "2").unwrap();
    fs::write(scratch.places.config(), "# mine").unwrap();
    let said = scratch.install();
    assert_eq!(said[1], "replaced /usr/local/bin/vrouterctl");
    assert_eq!(said.iter().filter(|line| line.starts_with("unchanged ")).count(), 3, "{said:#?}");
    assert_eq!(scratch.read("/usr/local/bin/vrouterctl"), "2");
    assert_eq!(scratch.read("/etc/vrouter/agent.toml"), "# mine");
    let left: Vec<_> = fs::read_dir(scratch.places.at("/usr/local/bin")).unwrap().flatten().collect();
    assert_eq!(left.len(), 3, "nothing half written stays: {left:?}");
}

#[test]
fn what_is_not_there_is_left_out_but_for_the_agent() {
    let some = scratch(&["vrouter-agent"]);
    let said = some.install();
    assert_eq!(said[1], "left out vrouterctl: it is not beside vrouter-agent in BUILD");
    let none = scratch(&[]);
    let error = install(&none.places, &none.from, true, &mut |_| {}).unwrap_err();
    assert!(
        error.to_string().starts_with("read ") && error.to_string().contains("vrouter-agent: No such file")
    );
}

#[test]
fn uninstalling_leaves_configuration_and_state() {
    let scratch = scratch(&PROGRAMS);
    scratch.install();
    fs::create_dir_all(scratch.places.at("/var/lib/vrouter")).unwrap();
    assert_eq!(
        scratch.uninstall(),
        [
            "removed /etc/systemd/system/vrouter-agent.service",
            "removed /usr/local/bin/vrouter-agent",
            "removed /usr/local/bin/vrouterctl",
            "removed /usr/local/bin/vrouter-cni",
            "kept /etc/vrouter/agent.toml",
            "kept /var/lib/vrouter",
        ]
    );
    assert!(scratch.uninstall()[..4].iter().all(|line| line.starts_with("absent ")));
}

#[test]
fn a_package_has_its_unit_in_usr_lib() {
    let places = Places { prefix: "/usr".into(), root: Some("/r".into()) };
    assert_eq!(places.unit(), Path::new("/r/usr/lib/systemd/system/vrouter-agent.service"));
}

#[test]
fn the_sample_is_a_configuration_that_works() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    fs::write(&file, SAMPLE).unwrap();
    let config = crate::config::Config::load(&file).unwrap();
    assert_eq!(config.vrfs.len(), 1);
    // What stands in it as comments works as well.
    let all: Vec<&str> = SAMPLE.lines().map(uncomment).collect();
    let key = directory.path().join("edge1.key");
    fs::write(&key, "secret\n").unwrap();
    let all = all.join("\n").replace("/etc/vrouter/edge1.key", &key.to_string_lossy());
    fs::write(&file, all).unwrap();
    let config = crate::config::Config::load(&file).unwrap();
    assert_eq!(config.bgp.neighbors.len(), 1);
    assert!(config.bgp.listen.is_some() && config.metrics.is_some());
}

/// A key or a section behind a `# `; other comments stay.
fn uncomment(line: &str) -> &str {
    match line.strip_prefix("# ") {
        Some(rest) if rest.starts_with('[') || rest.contains(" = ") => rest,
        _ => line,
    }
}
