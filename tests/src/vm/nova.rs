//! A stand-in for nova's metadata service: it tells a machine its own name, where the signature is right.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use crate::echo::Server;
use crate::netns::Namespace;

/// A request as it came: its first line, and its headers by lower-case names, each as often as it was there.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Method, path and version.
    pub line: String,
    /// The headers.
    pub headers: BTreeMap<String, Vec<String>>,
}

/// The service.
pub struct Nova {
    _server: Server,
    heard: Arc<Mutex<Vec<Heard>>>,
    secret_file: PathBuf,
}

impl Nova {
    /// Serves on a port of a namespace. Whoever knows `secret` may ask for any machine.
    pub fn start(namespace: &Namespace, directory: &Path, port: u16, secret: &str) -> Nova {
        let secret_file = directory.join("metadata.key");
        let written = std::fs::write(&secret_file, format!("{secret}\n"));
        written.unwrap_or_else(|error| panic!("write {}: {error}", secret_file.display()));
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let (all, key) = (Arc::clone(&heard), secret.to_owned());
        let server = Server::tcp_with(namespace, port, move |stream| serve(stream, &key, &all));
        Nova { _server: server, heard, secret_file }
    }

    /// The file with the secret, for the agent's configuration.
    pub fn secret_file(&self) -> &Path {
        &self.secret_file
    }

    /// Everything that it was asked.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(mut stream: TcpStream, secret: &str, all: &Mutex<Vec<Heard>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut heard = Heard::default();
    reader.read_line(&mut heard.line)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        heard.headers.entry(name.to_lowercase()).or_default().push(value.to_owned());
    }
    let length = heard.headers.get("content-length").and_then(|it| it.first()?.parse().ok()).unwrap_or(0);
    io::copy(&mut reader.take(length), &mut io::sink())?;
    let (status, body) = answer(&heard, secret);
    all.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// As nova judges (`api/metadata/handler.py`): one identifier, one project, and their signature.
fn answer(heard: &Heard, secret: &str) -> (&'static str, String) {
    let one = |name: &str| match heard.headers.get(name).map(Vec::as_slice) {
        Some([one]) => Some(one.as_str()),
        _ => None,
    };
    let (Some(instance), Some(signature)) = (one("x-instance-id"), one("x-instance-id-signature")) else {
        return ("400 Bad Request", "no instance".to_owned());
    };
    if one("x-tenant-id").is_none() || one("x-forwarded-for").is_none() {
        return ("400 Bad Request", "no project or no address".to_owned());
    }
    if signature != hmac(secret, instance) {
        return ("403 Forbidden", "wrong signature".to_owned());
    }
    match heard.line.split_whitespace().nth(1) {
        Some("/openstack/latest/meta_data.json") => ("200 OK", format!("{{\"uuid\": \"{instance}\"}}")),
        Some("/latest/meta-data/instance-id") => ("200 OK", instance.to_owned()),
        _ => ("404 Not Found", "no such metadata".to_owned()),
    }
}

/// By openssl, which nobody here wrote.
fn hmac(secret: &str, text: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-hmac", secret, "-r"]).stdin(std::process::Stdio::piped());
    let child = command.stdout(std::process::Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("openssl: {error}: apt-get install openssl"));
    // Dropped at once, which ends its input.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    assert!(matches!(written, Some(Ok(()))), "openssl takes no input");
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("openssl: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed.split_whitespace().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_knows_rfc_4231() {
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hmac("Jefe", "what do ya want for nothing?"), expected);
    }
}
