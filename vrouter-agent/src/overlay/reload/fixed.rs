//! What cannot change while the agent runs. A reload says so by name and goes on with what was.

use crate::config::Config;

/// The new configuration with the old values of what is fixed, and the names of what differs.
pub(super) fn keep(old: &Config, mut new: Config) -> (Config, Vec<String>) {
    let mut names = Vec::new();
    let mut note = |name: &str, differs: bool| {
        if differs {
            names.push(name.to_owned());
        }
    };
    note("[agent] socket", old.socket != new.socket);
    note("[agent] state-dir", old.state_dir != new.state_dir);
    note("[underlay] address or interface", old.underlay.source != new.underlay.source);
    note("[bgp] asn", old.bgp.asn != new.bgp.asn);
    note("[bgp] router-id", old.bgp.router_id != new.bgp.router_id);
    note("[bgp] cluster-id", old.bgp.cluster_id != new.bgp.cluster_id);
    note("[bgp] listen", old.bgp.listen != new.bgp.listen);
    note("[bgp] max-paths", old.bgp.max_paths != new.bgp.max_paths);
    note("[openstack]", old.openstack != new.openstack);
    note("[openstack] metadata, resolvers or dhcp-lease", old.vm != new.vm);
    note("[dataplane]", old.dataplane != new.dataplane);
    if old.bgp.router_id != new.bgp.router_id {
        // Route distinguishers may be made of it, and must not change before it does.
        for vrf in &mut new.vrfs {
            if let Some(was) = old.vrfs.iter().find(|was| was.name == vrf.name) {
                vrf.rd = was.rd;
            }
        }
    }
    new.socket = old.socket.clone();
    new.state_dir = old.state_dir.clone();
    new.underlay.source = old.underlay.source.clone();
    new.bgp.asn = old.bgp.asn;
    new.bgp.router_id = old.bgp.router_id;
    new.bgp.cluster_id = old.bgp.cluster_id;
    new.bgp.listen = old.bgp.listen;
    new.bgp.max_paths = old.bgp.max_paths;
    new.openstack = old.openstack.clone();
    new.vm = old.vm.clone();
    new.dataplane = old.dataplane.clone();
    (new, names)
}
