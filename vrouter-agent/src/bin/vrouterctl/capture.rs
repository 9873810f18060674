//! `vrouterctl capture`: a pcapng file from the agent's stream, to a file or a pipe, until a limit, Ctrl-C or the end.
//!
//! The file is whole blocks at any moment, and ends with its statistics however it ends.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_api::path::Target;
use agent_api::pcapng::{self, Blocks, Kind};
use agent_api::{CaptureDirection, CaptureRequest, Client, ClientError};

use crate::args::{Capture, Cli};
use crate::{REFUSED, USAGE, on_interrupt};

/// Where the file goes, and what it holds so far.
struct Recording {
    out: Box<dyn Write + Send>,
    packets: u64,
    lost: u64,
    is_ended: bool,
}

impl Recording {
    fn take(&mut self, kind: Kind, block: &[u8]) -> io::Result<()> {
        match kind {
            Kind::Packet { lost } => {
                self.packets += 1;
                self.lost += lost;
            }
            Kind::Statistics { lost } => {
                self.lost = self.lost.max(lost);
                self.is_ended = true;
            }
            Kind::Other => {}
        }
        self.out.write_all(block)
    }

    /// Ends the file where the agent has not.
    fn end(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.is_ended, true) {
            let mut block = Vec::new();
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let at_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
            pcapng::statistics(&mut block, at_ns, self.packets, self.lost);
            self.out.write_all(&block)?;
        }
        self.out.flush()
    }

    /// To standard error: standard output may be the file.
    fn tell(&self, json: bool) {
        if json {
            return eprintln!("{}", serde_json::json!({ "packets": self.packets, "lost": self.lost }));
        }
        let packets = if self.packets == 1 { "packet" } else { "packets" };
        eprint!("{} {packets} captured", self.packets);
        match self.lost {
            0 => eprintln!(", none lost"),
            lost => {
                eprintln!(", {lost} lost: this reader was too slow for them; a filter or --snaplen helps")
            }
        }
    }
}

pub(crate) fn run(cli: &Cli, args: &Capture) -> Result<ExitCode, ClientError> {
    let out: Box<dyn Write + Send> = match open(args.write.as_deref()) {
        Ok(out) => out,
        Err((text, code)) => {
            eprintln!("vrouterctl: {text}");
            return Ok(ExitCode::from(code));
        }
    };
    let client = Client::connect(&cli.socket, Duration::from_secs(cli.timeout))?;
    let recording = Arc::new(Mutex::new(Recording { out, packets: 0, lost: 0, is_ended: false }));
    let (at_interrupt, json) = (Arc::clone(&recording), cli.json);
    on_interrupt(move || {
        let mut recording = hold(&at_interrupt);
        let _ = recording.end();
        eprintln!();
        recording.tell(json);
    });
    let target = Target::capture(&request(args));
    let (mut blocks, mut broken) = (Blocks::default(), None);
    let streamed = client.stream_octets(target.as_str(), |chunk| {
        blocks.push(chunk);
        let mut recording = hold(&recording);
        let mut written = Ok(());
        while let Some((kind, block)) = blocks.next_block()? {
            written = written.and_then(|()| recording.take(kind, block));
        }
        // Whoever reads a pipe wants to see each packet at once.
        broken = written.and_then(|()| recording.out.flush()).err();
        Ok(broken.is_none())
    });
    let mut recording = hold(&recording);
    if let Some(error) = broken.filter(|error| error.kind() != ErrorKind::BrokenPipe) {
        eprintln!("vrouterctl: cannot write: {error}");
        return Ok(ExitCode::from(REFUSED));
    }
    streamed?;
    // Whoever reads may have seen enough.
    let _ = recording.end();
    recording.tell(cli.json);
    Ok(ExitCode::SUCCESS)
}

fn hold(recording: &Mutex<Recording>) -> MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(file: Option<&Path>) -> Result<Box<dyn Write + Send>, (String, u8)> {
    match file.filter(|file| *file != Path::new("-")) {
        Some(path) => {
            let file = File::create(path);
            let file =
                file.map_err(|error| (format!("cannot write {}: {error}", path.display()), REFUSED))?;
            Ok(Box::new(BufWriter::new(file)))
        }
        None if io::stdout().is_terminal() => {
            let text = "a capture is nothing to read on a terminal: name a file with -w FILE, or pipe it to a reader, as in\n  \
                        vrouterctl capture underlay | tshark -n -r -";
            Err((text.to_owned(), USAGE))
        }
        None => Ok(Box::new(BufWriter::new(io::stdout()))),
    }
}

fn request(args: &Capture) -> CaptureRequest {
    CaptureRequest {
        point: args.point.clone(),
        filter: args.filter.clone(),
        direction: match args.direction.as_str() {
            "in" => Some(CaptureDirection::In),
            "out" => Some(CaptureDirection::Out),
            _ => None,
        },
        snaplen: args.snaplen,
        count: args.count,
        seconds: args.seconds,
    }
}
