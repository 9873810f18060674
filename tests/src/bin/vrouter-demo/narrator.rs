//! Says what happens, and runs the commands that a person would type.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use vrouter_tests::node::Node;

/// Prints the story; ends it when the person at the keyboard says so.
pub(crate) struct Narrator {
    begin: Instant,
    interrupted: Arc<AtomicBool>,
}

impl Narrator {
    /// Begins. From here on, an interrupt ends the demonstration in order: what it made is removed.
    pub(crate) fn new() -> std::io::Result<Narrator> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Narrator { begin: Instant::now(), interrupted })
    }

    /// Whether the person wants it to end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// A new chapter.
    pub(crate) fn chapter(&self, text: &str) {
        println!("\n[{:5.1} s] {text}", self.begin.elapsed().as_secs_f64());
    }

    /// A line of the story.
    pub(crate) fn say(&self, text: &str) {
        println!("          {text}");
    }

    /// Runs `vrouterctl` on a node and prints the command and its answer.
    pub(crate) fn command(&self, node: &Node, words: &[&str]) {
        println!("\n{}$ vrouterctl {}", node.name(), words.join(" "));
        print!("{}", node.ctl(words));
    }
}
