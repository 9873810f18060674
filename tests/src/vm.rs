//! What a virtual machine needs around it: a stand-in for the machine that boots at once ([`Machine`]), a stand-in for
//! nova's metadata service ([`Nova`]), a resolver that knows a few names ([`Resolver`]).

mod machine;
mod nova;
mod resolver;

pub use machine::{Lease, Machine, read_lease, udhcpc_script};
pub use nova::Nova;
pub use resolver::Resolver;
