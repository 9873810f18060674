//! The main job with real parts: a sensor publishes on a gateway's bus, a collector pod sends the reading to Graphite in
//! the datacenter, and it is read back from carbon's own file.

use std::net::IpAddr;

use vrouter_tests::fixture::{pair, wait_routes};
use vrouter_tests::sensors::{Bus, Carbon, Collector, publish};
use vrouter_tests::{Lab, PATIENCE, wait_for};
use vrouter_types::Prefix;

#[test]
fn a_sensors_reading_arrives_in_carbon_behind_a_hypervisors_port() {
    let lab = Lab::new();
    let (gateway, hypervisor) = pair(&lab);
    let (bus, sensor, collector) =
        (gateway.add_pod("bus"), gateway.add_pod("sensor"), gateway.add_pod("collector"));

    // The "VM": a namespace behind an interface that nova would have plugged.
    let vm = lab.namespace("graphite");
    let address: IpAddr = "10.50.0.3".parse().expect("an address");
    let gateway4: IpAddr = "169.254.1.1".parse().expect("an address");
    hypervisor.namespace().add_veth("tapgraphite", &vm, "eth0");
    let mac = vm.mac("eth0").to_string();
    let words = [
        "port",
        "add",
        "--vrf",
        "city",
        "--interface",
        "tapgraphite",
        "--mac",
        &mac,
        "--address",
        "10.50.0.3",
    ];
    hypervisor.ctl(&words);
    vm.add_address("eth0", address, 32);
    vm.netlink(|netlink| {
        netlink.set_mtu("eth0", 1468)?;
        netlink.add_route(Prefix::host(gateway4), None, "eth0")?;
        netlink.add_route("0.0.0.0/0".parse().expect("a prefix"), Some(gateway4), "eth0")
    });
    wait_routes(&gateway, &[address]);
    wait_routes(&hypervisor, &collector.addresses());

    let carbon = Carbon::start(&lab, &vm);
    let _bus = Bus::start(&lab, bus.namespace());
    let _collector = Collector::start(collector.namespace(), bus.v4().into(), address);
    wait_for("the reading in carbon's file", PATIENCE, || {
        publish(sensor.namespace(), bus.v6().into(), "sensors/lamp7/celsius", 21.5);
        let readings = carbon.readings("sensors.lamp7.celsius");
        if readings.iter().any(|(_, value)| *value == 21.5) { Ok(()) } else { Err(readings) }
    });
}
