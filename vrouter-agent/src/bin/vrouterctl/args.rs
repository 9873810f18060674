//! The command line. Names and values that cannot be right are refused here, with exit code 2.

use std::net::IpAddr;
use std::path::PathBuf;

use agent_api::DEFAULT_SOCKET;
use clap::{Args, Parser, Subcommand};
use dataplane_core::Filter;
use dataplane_core::filter::FilterError;
use vrouter_types::{MacAddr, ParseRouteTargetError, Prefix, RouteDistinguisher, RouteTarget};

use crate::groups::Group;
use crate::machine::Machine;
use crate::reach::Reach;

/// Where the help lists what every command takes.
const COMMON: &str = "Common options";

/// Shows what the vrouter agent knows, traces packets through it, and joins VMs to its VRFs
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  vrouterctl status\n  vrouterctl show bgp summary\n  vrouterctl --json show ports\n  \
                  vrouterctl trace --vrf smart-city 10.20.11.2 10.30.0.5\n\n\
                  Exit codes: 0 done, 1 the agent said no (status: something is wrong), 2 usage, 3 the agent cannot be \
                  reached"
)]
pub(crate) struct Cli {
    /// The agent's socket
    #[arg(long, global = true, help_heading = COMMON, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Print the agent's reply as JSON, one object
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) json: bool,
    /// Give up when the agent has not answered after so long
    #[arg(long, global = true, help_heading = COMMON, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what the agent knows
    #[command(
        subcommand,
        after_help = "Examples:\n  vrouterctl show vrfs\n  vrouterctl show bgp neighbors 192.0.2.1"
    )]
    Show(Show),
    /// The agent in one screen: healthy, or what is wrong
    #[command(
        after_help = "Example:\n  vrouterctl status\n\nExit codes: 0 healthy, 1 something is wrong, 3 the agent \
                            cannot be reached"
    )]
    Status,
    /// Read the configuration again, and say what changed and what needs a restart
    #[command(
        after_help = "Example:\n  vrouterctl reload\n\nA file with mistakes changes nothing: exit code 1, and every \
                            mistake with its line. Sessions that a\nchange does not concern do not notice. SIGHUP does \
                            the same, and the log says what came of it."
    )]
    Reload,
    /// Begin BGP sessions anew, or their routes only
    #[command(subcommand, after_help = "Example:\n  vrouterctl clear bgp 192.0.2.1 soft in")]
    Clear(Clear),
    /// Say why a prefix of a VRF goes where it goes, or nowhere, and who is told of it
    #[command(after_help = "Example:\n  vrouterctl explain --vrf smart-city 10.30.0.5/32\n\n\
                            Route selection has the step numbers of RFC 4271 section 9.1.2.2.")]
    Explain(Explain),
    /// Watch what happens, one line each, until Ctrl-C or the agent stops
    #[command(subcommand, after_help = "Example:\n  vrouterctl monitor bgp")]
    Monitor(Monitor),
    /// Copy packets of a port or of the tunnels into a pcapng file, for Wireshark and tshark
    #[command(after_help = "Examples:\n  vrouterctl capture 3 -w port3.pcapng --seconds 10\n  \
                            vrouterctl capture underlay --filter 'label 17 and host 10.30.0.5' | tshark -n -r -\n  \
                            vrouterctl capture city-1/sensor --filter 'tcp and not port 22' --snaplen 128 -w s.pcapng\n\n\
                            Filters: host ADDRESS, net PREFIX, port NUMBER, each with src or dst in front or not; tcp, udp, icmp, icmp6,\n\
                            arp, ip, ip6, label NUMBER (underlay); and, or, not, parentheses. On the underlay the packet inside the\n\
                            tunnel counts, and addresses may also be those of its outer header.\n\n\
                            Ports show Ethernet frames, superframes (TSO, USO) as one packet each; the underlay shows every packet as on\n\
                            the wire. Dropped packets say why in their comment. Ctrl-C ends it.")]
    Capture(Capture),
    /// Say what would happen to a packet, step by step, in the forwarding state as it is now
    #[command(after_help = "Examples:\n  vrouterctl trace --vrf smart-city 10.20.11.2 10.30.0.5\n  \
                            vrouterctl trace --vrf smart-city fd00:20:11::2 fd00:30::5\n\n\
                            The packet enters at the port that has the source address or, if none here has, from the tunnel that leads\nto it.")]
    Trace(Trace),
    /// Rules of what ports may send and receive
    #[command(
        subcommand,
        after_help = "Examples:\n  vrouterctl security-group list\n  vrouterctl security-group set web.json"
    )]
    SecurityGroup(Group),
    /// Join a VM's tap to a VRF, or take it away
    #[command(
        subcommand,
        after_help = "Examples:\n  vrouterctl port add --vrf smart-city --interface tap0 \
                                        --mac 52:54:00:12:34:56 --address 10.20.11.200\n  \
                                        vrouterctl port delete --interface tap0"
    )]
    Port(Port),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Clear {
    /// Of this neighbor: the session, or with `soft` its routes while the session goes on
    #[command(
        after_help = "Examples:\n  vrouterctl clear bgp 192.0.2.1\n  vrouterctl clear bgp 192.0.2.1 soft in\n  \
                            vrouterctl clear bgp 192.0.2.1 soft out\n\n\
                            Also brings back a neighbor that sent more routes than it may."
    )]
    Bgp {
        /// The neighbor
        address: IpAddr,
        #[command(subcommand)]
        soft: Option<Soft>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Soft {
    /// Keep the session
    #[command(after_help = "Example:\n  vrouterctl clear bgp 192.0.2.1 soft in")]
    Soft {
        /// `in`: ask the neighbor for its routes once more; `out`: tell it ours once more
        #[arg(value_parser = ["in", "out"])]
        direction: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The VRF
    #[arg(long, value_name = "NAME")]
    pub(crate) vrf: String,
    /// The prefix, as it is in the table
    pub(crate) prefix: Prefix,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Monitor {
    /// Sessions as they stand, then every change of a session or of a VRF's route
    #[command(
        after_help = "Examples:\n  vrouterctl monitor bgp\n  vrouterctl --json monitor bgp | jq -c .\n\n\
                            With --json: one object per line."
    )]
    Bgp,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Show {
    /// The agent in one screen: is it ready, and what is wrong
    #[command(after_help = "Example:\n  vrouterctl show status")]
    Status,
    /// BGP sessions and VPN routes
    #[command(
        subcommand,
        after_help = "Examples:\n  vrouterctl show bgp summary\n  \
                                        vrouterctl show bgp routes --family vpnv4"
    )]
    Bgp(Bgp),
    /// VRFs with their route distinguishers, route targets and pod addresses
    #[command(after_help = "Example:\n  vrouterctl show vrfs")]
    Vrfs,
    /// Routes of the VRFs, as they forward
    #[command(after_help = "Examples:\n  vrouterctl show routes\n  \
                            vrouterctl show routes --vrf smart-city 10.30.0.0/16")]
    Routes {
        /// Of this VRF only
        #[arg(long, value_name = "NAME")]
        vrf: Option<String>,
        /// This prefix and those inside it; if there are none, the route that covers it
        prefix: Option<Prefix>,
    },
    /// Ports of pods and VMs, with their counters and rates
    #[command(after_help = "Examples:\n  vrouterctl show ports\n  vrouterctl show ports --watch")]
    Ports(Watch),
    /// Labels that other provider edges send us traffic with
    #[command(after_help = "Example:\n  vrouterctl show labels")]
    Labels,
    /// Tunnels to other provider edges, with their counters and rates
    #[command(after_help = "Examples:\n  vrouterctl show tunnels\n  vrouterctl show tunnels --watch 5")]
    Tunnels(Watch),
    /// Flows that are remembered: of ports in security groups, and of translated addresses
    #[command(
        after_help = "Examples:\n  vrouterctl show flows\n  vrouterctl show flows --vrf smart-city --limit 20\n  \
                            vrouterctl show flows --port 3"
    )]
    Flows {
        /// Of ports of this VRF only
        #[arg(long, value_name = "NAME")]
        vrf: Option<String>,
        /// Of this port only: its number, interface or name, as `show ports` has them
        #[arg(long, value_name = "PORT")]
        port: Option<String>,
        /// At most so many
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: Option<u32>,
    },
    /// What takes the agent's memory
    #[command(after_help = "Example:\n  vrouterctl show memory")]
    Memory,
    /// What nova and neutron's agents have said: taps, what they wait for, VPN instances
    #[command(after_help = "Example:\n  vrouterctl show openstack")]
    Openstack,
    /// Dropped packets, by reason
    #[command(after_help = "Examples:\n  vrouterctl show drops\n  vrouterctl show drops --all")]
    Drops {
        /// Also reasons that never happened
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        watch: Watch,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bgp {
    /// All neighbors, a line each
    #[command(after_help = "Example:\n  vrouterctl show bgp summary")]
    Summary,
    /// All about each neighbor: capabilities, timers, message counts, the last error
    #[command(
        after_help = "Examples:\n  vrouterctl show bgp neighbors\n  vrouterctl show bgp neighbors 192.0.2.1"
    )]
    Neighbors {
        /// This neighbor only
        address: Option<IpAddr>,
    },
    /// Who wants routes with which route target (RFC 4684)
    #[command(after_help = "Example:\n  vrouterctl show bgp rtc")]
    Rtc,
    /// VPN routes and route target memberships
    #[command(after_help = "Examples:\n  vrouterctl show bgp routes\n  \
                            vrouterctl show bgp routes --family vpnv6 --rt target:64512:100\n  \
                            vrouterctl show bgp routes --neighbor 192.0.2.1 --advertised\n  \
                            vrouterctl show bgp routes 10.30.0.0/16")]
    Routes(RouteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    /// Of this family only
    #[arg(long, value_parser = ["vpnv4", "vpnv6", "rtc"])]
    pub(crate) family: Option<String>,
    /// With this route distinguisher
    #[arg(long, value_name = "RD")]
    pub(crate) rd: Option<RouteDistinguisher>,
    /// With this route target, as target:64512:100 or 64512:100
    #[arg(long, value_name = "RT", value_parser = route_target)]
    pub(crate) rt: Option<RouteTarget>,
    /// Of this neighbor
    #[arg(long, value_name = "ADDR")]
    pub(crate) neighbor: Option<IpAddr>,
    /// Routes received from the neighbor
    #[arg(long, requires = "neighbor", conflicts_with = "advertised")]
    pub(crate) received: bool,
    /// Routes advertised to the neighbor
    #[arg(long, requires = "neighbor")]
    pub(crate) advertised: bool,
    /// This prefix and those inside it
    pub(crate) prefix: Option<Prefix>,
}

#[derive(Debug, Args)]
pub(crate) struct Capture {
    /// A port's number, interface or name, as `show ports` has them, or `underlay`
    #[arg(value_name = "PORT|underlay")]
    pub(crate) point: String,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Only packets that match
    #[arg(short, long, value_name = "EXPRESSION", value_parser = filter)]
    pub(crate) filter: Option<String>,
    /// End after so many packets
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: Option<u64>,
    /// Keep at most so many octets of each packet
    #[arg(short, long, value_name = "OCTETS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) snaplen: Option<u32>,
    /// `in`: what arrives from the workload or the wire; `out`: what goes there
    #[arg(short, long, default_value = "both", value_parser = ["in", "out", "both"])]
    pub(crate) direction: String,
}

/// Views that change by themselves.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Show it again and again, every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) watch: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The VRF that the packet enters
    #[arg(long, value_name = "NAME")]
    pub(crate) vrf: String,
    /// Its source address
    #[arg(value_name = "SRC")]
    pub(crate) source: IpAddr,
    /// Its destination address
    #[arg(value_name = "DST")]
    pub(crate) destination: IpAddr,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Port {
    /// Join a VM's tap to a VRF
    #[command(after_help = "Examples:\n  vrouterctl port add --vrf smart-city --interface tap0 \
                            --mac 52:54:00:12:34:56 --address 10.20.11.200 --address fd00:20:11::200\n  \
                            vrouterctl port add --vrf smart-city --interface tap0 --mac 52:54:00:12:34:56 \
                            --address 10.20.11.200 \\\n      --dhcp --subnet 10.20.11.0/24=10.20.11.1 --host-name vm-1 \
                            --instance 4fb2dd5e-33c7-4f2c-a9a1-c8e2f4f2e1b0\n  \
                            vrouterctl port add --vrf power --interface tap0 --vlan 101 --mac 52:54:00:12:34:57 \
                            --address 10.30.0.5\n\n\
                            When it returns, the port is on disk, forwards and is advertised. Without --dhcp the VM is \
                            told its addresses\nby whoever configures it; its gateways are 169.254.1.1 and fe80::1, on \
                            link.")]
    Add(Box<PortAdd>),
    /// Take a VM's tap away
    #[command(
        after_help = "Examples:\n  vrouterctl port delete --interface tap0\n  vrouterctl port delete --interface \
                            tap0 --vlan 101"
    )]
    Delete(PortDelete),
}

#[derive(Debug, Args)]
pub(crate) struct PortAdd {
    /// The VRF to join
    #[arg(long, value_name = "NAME")]
    pub(crate) vrf: String,
    /// The tap, an interface of this host
    #[arg(long, value_name = "TAP")]
    pub(crate) interface: String,
    /// The VM's MAC address
    #[arg(long)]
    pub(crate) mac: MacAddr,
    /// An address of the VM; may be repeated
    #[arg(long = "address", value_name = "ADDR", required = true)]
    pub(crate) addresses: Vec<IpAddr>,
    /// The VM's name, for people
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A prefix behind the VM; may be repeated
    #[arg(long = "prefix", value_name = "PREFIX")]
    pub(crate) prefixes: Vec<Prefix>,
    /// An MTU smaller than the one that fits the tunnels
    #[arg(long)]
    pub(crate) mtu: Option<u16>,
    /// A sub-port: only the tap's frames with this 802.1Q tag
    #[arg(long, value_name = "TAG", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub(crate) vlan: Option<u16>,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

#[derive(Debug, Args)]
pub(crate) struct PortDelete {
    /// The tap
    #[arg(long, value_name = "TAP")]
    pub(crate) interface: String,
    /// Its sub-port with this 802.1Q tag, not the tap itself
    #[arg(long, value_name = "TAG")]
    pub(crate) vlan: Option<u16>,
}

/// The agent reads it again; what is wrong with it is said here.
fn filter(text: &str) -> Result<String, FilterError> {
    text.parse::<Filter>().map(|_| text.to_owned())
}

fn route_target(text: &str) -> Result<RouteTarget, ParseRouteTargetError> {
    text.parse().or_else(|error| format!("target:{text}").parse().map_err(|_| error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn definition_holds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in ["vrouterctl --json --socket /s show vrfs", "vrouterctl show vrfs --json --socket /s"] {
            let cli = parse(line).unwrap();
            assert!(cli.json && cli.socket.as_os_str() == "/s", "{line}");
        }
        assert_eq!(parse("vrouterctl show vrfs").unwrap().socket.as_os_str(), DEFAULT_SOCKET);
    }

    #[test]
    fn every_filter_of_routes_is_read() {
        let line = "vrouterctl show bgp routes --family vpnv6 --rd 192.0.2.11:1 --rt 64512:100 \
                    --neighbor 2001:db8::1 --advertised fd00::/8";
        let Command::Show(Show::Bgp(Bgp::Routes(args))) = parse(line).unwrap().command else { panic!() };
        assert_eq!(args.family.as_deref(), Some("vpnv6"));
        assert_eq!(args.rd.unwrap().to_string(), "192.0.2.11:1");
        assert_eq!(args.rt.unwrap().to_string(), "target:64512:100");
        assert_eq!(args.neighbor.unwrap().to_string(), "2001:db8::1");
        assert!(args.advertised && !args.received);
        assert_eq!(args.prefix.unwrap().to_string(), "fd00::/8");
    }

    #[test]
    fn port_takes_several_addresses_and_prefixes() {
        let line = "vrouterctl port add --vrf v --interface tap0 --mac 52:54:00:12:34:56 --address 10.0.0.1 \
                    --address fd00::1 --prefix 10.9.0.0/16 --name vm";
        let Command::Port(Port::Add(add)) = parse(line).unwrap().command else { panic!() };
        assert_eq!(add.addresses.len(), 2);
        assert_eq!(add.prefixes[0].to_string(), "10.9.0.0/16");
    }

    #[test]
    fn clear_is_hard_unless_it_is_soft() {
        let kind = |line: &str| match parse(line).unwrap().command {
            Command::Clear(Clear::Bgp { soft, .. }) => soft.map(|Soft::Soft { direction }| direction),
            other => panic!("{other:?}"),
        };
        assert_eq!(kind("vrouterctl clear bgp 192.0.2.1"), None);
        assert_eq!(kind("vrouterctl clear bgp 192.0.2.1 soft in").as_deref(), Some("in"));
        assert_eq!(kind("vrouterctl clear bgp fd00::1 soft out").as_deref(), Some("out"));
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "vrouterctl",
            "vrouterctl show",
            "vrouterctl show bgp routes --family ipv4",
            "vrouterctl show bgp routes --received",
            "vrouterctl show bgp routes --neighbor 1.1.1.1 --received --advertised",
            "vrouterctl show bgp routes 10.0.0.0/33",
            "vrouterctl show bgp neighbors nobody",
            "vrouterctl trace 10.0.0.1 10.0.0.2",
            "vrouterctl capture",
            "vrouterctl capture 3 --filter vlan",
            "vrouterctl capture 3 --direction up",
            "vrouterctl capture 3 --count 0",
            "vrouterctl show ports --watch 0",
            "vrouterctl trace --vrf v 10.0.0.1",
            "vrouterctl port add --vrf v --interface tap0 --mac 52:54:00:12:34:56",
            "vrouterctl port add --vrf v --interface tap0 --mac 52:54 --address 10.0.0.1",
            "vrouterctl port delete",
            "vrouterctl clear bgp",
            "vrouterctl clear bgp 192.0.2.1 soft",
            "vrouterctl clear bgp 192.0.2.1 soft both",
            "vrouterctl explain 10.0.0.0/8",
            "vrouterctl monitor",
            "vrouterctl --timeout 0 show vrfs",
        ] {
            let error = parse(line).map(|cli| format!("{cli:?}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn help_of_every_command_has_an_example() {
        fn visit(command: &mut clap::Command) {
            let help = command.render_help().to_string();
            assert!(help.contains("Example"), "{}", command.get_name());
            command.get_subcommands_mut().filter(|c| c.get_name() != "help").for_each(visit);
        }
        visit(&mut Cli::command());
    }
}
