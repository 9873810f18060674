//! Security groups to policies: what packets are asked, as the snapshot carries it.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_api::{RuleDirection, RuleFamily, SecurityGroup, SecurityRule};
use dataplane_core::StaticNat;
use dataplane_core::policy::{Members, Policy, Remote, Rule, Service};
use vrouter_types::{PortId, Prefix};

use crate::overlay::{Overlay, Port};
use crate::security_groups::protocol;

/// Compiles policies, and keeps those that say the same as before.
#[derive(Debug, Default)]
pub struct PolicyBuilder {
    /// Of the last policy that said something new.
    generation: u64,
    policies: BTreeMap<PortId, Arc<Policy>>,
}

impl PolicyBuilder {
    /// Compiles the policy of every port that has one.
    pub fn build(&mut self, overlay: &Overlay) {
        let mut old = std::mem::take(&mut self.policies);
        let mut members = BTreeMap::new();
        for port in overlay.ports() {
            let Some(names) = &port.saved.request.security_groups else { continue };
            let groups: Vec<SecurityGroup> =
                names.iter().filter_map(|name| overlay.security_group(name)).collect();
            let mut rules = |direction| -> Box<[Rule]> {
                let rules = groups.iter().flat_map(|group| &group.rules);
                let wanted = rules.filter(|rule| rule.direction == direction);
                wanted.filter_map(|rule| compile(rule, overlay, &mut members)).collect()
            };
            let (ingress, egress) = (rules(RuleDirection::Ingress), rules(RuleDirection::Egress));
            let id = port.saved.port;
            let policy = match old.remove(&id) {
                Some(policy) if policy.ingress == ingress && policy.egress == egress => policy,
                _ => {
                    self.generation += 1;
                    Arc::new(Policy { generation: self.generation, ingress, egress })
                }
            };
            self.policies.insert(id, policy);
        }
    }

    /// The port's policy; `None`: all may pass.
    pub fn of(&self, port: PortId) -> Option<Arc<Policy>> {
        self.policies.get(&port).cloned()
    }
}

/// The rule as packets are asked. One that names what is not known matches nothing, so it is left out.
fn compile(
    rule: &SecurityRule,
    overlay: &Overlay,
    members: &mut BTreeMap<String, Arc<Members>>,
) -> Option<Rule> {
    let service = match (rule.port_min, rule.icmp_type) {
        (Some(first), _) => Service::Ports(first..=rule.port_max.unwrap_or(first)),
        (None, Some(kind)) => Service::Icmp(kind, rule.icmp_code),
        (None, None) => Service::Any,
    };
    let remote = match (rule.remote_prefix, &rule.remote_group) {
        (Some(prefix), _) => Remote::Prefix(prefix),
        (None, Some(group)) => {
            let compiled = members.entry(group.clone());
            let compiled =
                compiled.or_insert_with(|| Arc::new(overlay.group_members(group).into_iter().collect()));
            Remote::Members(Arc::clone(compiled))
        }
        (None, None) => Remote::Any,
    };
    Some(Rule { v4: rule.family == RuleFamily::Ipv4, protocol: protocol(rule).ok()?, service, remote })
}

/// The port's floating addresses, as far as their VRFs are known.
pub fn static_nat(overlay: &Overlay, port: &Port) -> Vec<StaticNat> {
    let floating = port.saved.request.floating_ips.iter();
    floating
        .filter_map(|ip| {
            let vrf = overlay.floating_vrf(port, &ip.vrf)?;
            Some(StaticNat { fixed: ip.fixed, floating: ip.address, vrf })
        })
        .collect()
}

/// What a port adds to the groups it is in.
pub(crate) fn addresses(port: &Port) -> impl Iterator<Item = Prefix> {
    let own = port.saved.addresses.iter().copied().map(Prefix::host);
    own.chain(port.saved.request.allowed.iter().map(|pair| pair.prefix))
}
