/// What we serve a workload ourselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// Its packets to the metadata address (169.254.169.254 and fe80::a9fe:a9fe, TCP port 80) go to the agent.
    pub metadata: bool,
    /// Its packets to port 53 of the gateway (UDP and TCP) go to the agent.
    pub dns: bool,
}

/// Where the agent serves workloads: ports of the gateway's addresses on the host. Zero: it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceTargets {
    /// Of the metadata proxy.
    pub metadata: u16,
    /// Of the DNS forwarder.
    pub dns: u16,
}
