//! The log as the journal wants it: one line per event, its priority in front (sd-daemon(3)), without a time of its
//! own and without colours.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether standard error is the journal's (systemd.exec(5), `JOURNAL_STREAM`).
pub fn is_there() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let meta = stderr.and_then(|fd| File::from(fd).metadata());
    stream.zip(meta.ok()).is_some_and(|(stream, meta)| stream == format!("{}:{}", meta.dev(), meta.ino()))
}

/// Formats events for the journal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        let metadata = event.metadata();
        write!(writer, "<{}>", priority(*metadata.level()))?;
        if *metadata.level() >= Level::DEBUG {
            write!(writer, "{}: ", metadata.target())?;
        }
        // A line end would begin another message, without a priority.
        writeln!(writer, "{}", text.replace('\n', " | "))
    }
}

/// As syslog(3) counts.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_event_is_one_line_with_its_priority() {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_ansi(false)
            .event_format(Journal)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(port = 3, "port open");
            tracing::warn!(error = "a\nb", "not done");
            tracing::error!("over");
            tracing::debug!("detail");
        });
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "<6>port open port=3");
        assert!(lines[1].starts_with("<4>not done error=") && !lines[1].contains('\n'), "{text}");
        assert_eq!(lines[2], "<3>over");
        assert!(lines[3].starts_with("<7>vrouter_agent::journal"), "{text}");
        assert_eq!(lines.len(), 4, "{text}");
    }
}
