//! The sensors' side of the story with real parts: mosquitto as the gateway's bus, mosquitto_pub and mosquitto_sub as
//! sensor and collector, graphite-carbon as the store in the datacenter.
//!
//! ```text
//!  sensor ──publish──▶ mosquitto ──▶ collector (subscribes) ──plaintext, TCP 2003──▶ carbon ──▶ whisper file
//! ```

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::echo::connect_tcp;
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::process::{Daemon, command, run_ok};
use crate::wait::{PATIENCE, wait_for};

const MQTT_PORT: u16 = 1883;
const GRAPHITE_PORT: u16 = 2003;

/// A mosquitto broker.
pub struct Bus {
    _daemon: Daemon,
}

impl Bus {
    /// Starts a broker on every address of a namespace.
    ///
    /// # Panics
    /// When it does not listen in time, with its log.
    pub fn start(lab: &Lab, namespace: &Namespace) -> Bus {
        let path = lab.path("mosquitto.conf");
        let text = format!("listener {MQTT_PORT}\nallow_anonymous true\nuser root\n");
        fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        let mut mosquitto = Command::new("mosquitto");
        mosquitto.arg("-c").arg(path);
        let daemon = Daemon::start(namespace, "mosquitto", mosquitto, &lab.path("mosquitto.log"));
        wait_for("mosquitto to listen", PATIENCE, || connect_tcp(namespace, local(MQTT_PORT)));
        Bus { _daemon: daemon }
    }
}

/// Publishes one reading on a bus.
///
/// # Panics
/// When the bus cannot be reached.
pub fn publish(sensor: &Namespace, bus: IpAddr, topic: &str, reading: f64) {
    let words = ["-h", &bus.to_string(), "-q", "1", "-t", topic, "-m", &reading.to_string()];
    run_ok(sensor, &mut command("mosquitto_pub", &words));
}

/// Subscribes to every topic of a bus and sends each reading on, in Graphite's plaintext protocol. Ends when dropped.
pub struct Collector {
    subscriber: Child,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Collector {
    /// Starts a collector in a namespace.
    ///
    /// # Panics
    /// When mosquitto_sub cannot be started.
    pub fn start(namespace: &Namespace, bus: IpAddr, graphite: IpAddr) -> Collector {
        let mut subscribe =
            command("mosquitto_sub", &["-h", &bus.to_string(), "-q", "1", "-v", "-t", "sensors/#"]);
        subscribe.stdin(Stdio::null()).stdout(Stdio::piped());
        let subscriber = namespace.run(|| subscribe.spawn());
        let mut subscriber = subscriber.unwrap_or_else(|error| panic!("start mosquitto_sub: {error}"));
        let lines = BufReader::new(subscriber.stdout.take().expect("stdout is a pipe"));
        let inside = namespace.clone();
        let thread = thread::spawn(move || {
            let mut store = connect_tcp(&inside, SocketAddr::new(graphite, GRAPHITE_PORT))?;
            for line in lines.lines() {
                let line = line?;
                let Some((topic, reading)) = line.split_once(' ') else { continue };
                writeln!(store, "{} {reading} {}", topic.replace('/', "."), now())?;
            }
            Ok(())
        });
        Collector { subscriber, thread: Some(thread) }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.subscriber.kill();
        let _ = self.subscriber.wait();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("the collector ended: {error}"),
            Some(Err(_)) => eprintln!("the collector's thread died"),
            _ => {}
        }
    }
}

/// A graphite-carbon cache.
pub struct Carbon {
    _daemon: Daemon,
    directory: PathBuf,
}

impl Carbon {
    /// Starts carbon on every address of a namespace.
    ///
    /// # Panics
    /// When it does not listen in time, with its log.
    pub fn start(lab: &Lab, namespace: &Namespace) -> Carbon {
        let directory = lab.path("carbon");
        let made = fs::create_dir_all(directory.join("whisper"));
        made.unwrap_or_else(|error| panic!("make {}: {error}", directory.display()));
        for (name, text) in [
            ("carbon.conf", configuration(&directory.display().to_string())),
            ("storage-schemas.conf", "[all]\npattern = .*\nretentions = 1s:1h\n".to_owned()),
        ] {
            let path = directory.join(name);
            fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        }
        let mut carbon = Command::new("carbon-cache");
        carbon.arg("--config").arg(directory.join("carbon.conf")).args(["--debug", "start"]);
        // Its daemon wrapper looks for plugins where it stands.
        carbon.current_dir(&directory);
        let daemon = Daemon::start(namespace, "carbon-cache", carbon, &lab.path("carbon.log"));
        wait_for("carbon to listen", PATIENCE, || connect_tcp(namespace, local(GRAPHITE_PORT)));
        Carbon { _daemon: daemon, directory }
    }

    /// The readings that a metric's whisper file holds, as (second, value); none where there is no file.
    pub fn readings(&self, metric: &str) -> Vec<(u32, f64)> {
        let path = self.directory.join("whisper").join(metric.replace('.', "/")).with_extension("wsp");
        fs::read(path).map(|file| whisper_points(&file)).unwrap_or_default()
    }
}

fn configuration(directory: &str) -> String {
    format!(
        "[cache]\nSTORAGE_DIR = {directory}\nLOCAL_DATA_DIR = {directory}/whisper\nCONF_DIR = {directory}\n\
         LOG_DIR = {directory}\nPID_DIR = {directory}\nUSER =\nMAX_CACHE_SIZE = inf\n\
         MAX_UPDATES_PER_SECOND = 500\nMAX_CREATES_PER_MINUTE = inf\nLINE_RECEIVER_INTERFACE = ::\n\
         LINE_RECEIVER_PORT = {GRAPHITE_PORT}\nENABLE_LOGROTATION = False\nCACHE_WRITE_STRATEGY = naive\n\
         WHISPER_AUTOFLUSH = True\n"
    )
}

/// The points of a whisper file's first archive. All fields are big-endian.
///
/// ```text
///  aggregation(4) retention(4) xff(4) archives(4)  then per archive: offset(4) step(4) points(4)
///  point: second(4) value(8, IEEE 754); second 0: empty
/// ```
fn whisper_points(file: &[u8]) -> Vec<(u32, f64)> {
    let word = |at: usize| Some(u32::from_be_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let archive = || Some((usize::try_from(word(16)?).ok()?, usize::try_from(word(24)?).ok()?));
    let Some((offset, points)) = archive() else { return Vec::new() };
    let point = |index: usize| {
        let at = offset + index * 12;
        let value = f64::from_be_bytes(file.get(at + 4..at + 12)?.try_into().ok()?);
        word(at).filter(|second| *second != 0).map(|second| (second, value))
    };
    (0..points.min(1 << 20)).filter_map(point).collect()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_a_whisper_file_are_read_and_a_short_file_is_empty() {
        let mut file = Vec::new();
        for word in [1_u32, 3600, 0, 1, 28, 1, 2] {
            file.extend(word.to_be_bytes());
        }
        file.extend(7_u32.to_be_bytes());
        file.extend(21.5_f64.to_be_bytes());
        file.extend([0; 12]);
        assert_eq!(whisper_points(&file), [(7, 21.5)]);
        assert_eq!(whisper_points(&file[..20]), []);
    }
}
