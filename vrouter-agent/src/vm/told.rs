//! What a port's caller said of its machine, as the pipeline tells it.

use agent_api::VmServices;
use dataplane_core::{Lease, ServiceTargets, Services, Subnet};

/// The services of a port. Only what somebody serves is promised to it.
pub fn services(vm: &VmServices, targets: ServiceTargets, lease: u32) -> Services {
    let subnet = |subnet: &agent_api::Subnet| Subnet {
        prefix: subnet.prefix,
        gateway: subnet.gateway,
        routes: subnet.routes.clone(),
    };
    let subnets: Vec<Subnet> = vm.subnets.iter().map(subnet).collect();
    let asks_gateway = vm.dns.is_empty()
        || vm.dns.iter().any(|addr| subnets.iter().any(|subnet| subnet.gateway == Some(*addr)));
    let told = Lease {
        host_name: vm.host_name.clone(),
        domain: vm.domain.clone(),
        dns: vm.dns.clone(),
        seconds: if vm.lease == 0 { lease } else { vm.lease },
    };
    Services {
        metadata: vm.metadata && targets.metadata != 0,
        dns: asks_gateway && targets.dns != 0,
        subnets,
        lease: vm.dhcp.then_some(told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_served_is_promised() {
        let vm = VmServices { dhcp: true, metadata: true, ..VmServices::default() };
        let all = ServiceTargets { metadata: 1, dns: 2 };
        let served = services(&vm, all, 3600);
        assert!(served.metadata && served.dns);
        assert_eq!(served.lease.unwrap().seconds, 3600);
        let none = services(&vm, ServiceTargets::default(), 3600);
        assert!(!none.metadata && !none.dns && none.lease.is_some());
    }

    #[test]
    fn names_are_asked_here_unless_somebody_else_is_named() {
        let all = ServiceTargets { metadata: 1, dns: 2 };
        let gateway = "10.0.0.1".parse().unwrap();
        let subnets = vec![agent_api::Subnet {
            prefix: "10.0.0.0/24".parse().unwrap(),
            gateway: Some(gateway),
            routes: Vec::new(),
        }];
        for (dns, expected) in
            [(vec![], true), (vec![gateway], true), (vec!["192.0.2.53".parse().unwrap()], false)]
        {
            let vm = VmServices { dns, subnets: subnets.clone(), ..VmServices::default() };
            assert_eq!(services(&vm, all, 60).dns, expected);
        }
    }
}
