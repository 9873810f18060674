//! What the disk held becomes what was said. What contradicts itself is left out, and said where a person sees it.

use std::collections::BTreeSet;

use super::{INSTANCE_RDS, Ledger, Records};

/// Files that the status names; of more it says how many.
const MAX_NAMED: usize = 8;

impl Ledger {
    /// Takes back what the disk held. The later of two that contradict each other wins nothing.
    pub fn restore(records: Records) -> Ledger {
        let mut ledger = Ledger { skipped: records.skipped.into_iter().collect(), ..Ledger::default() };
        for plug in records.plugs {
            match ledger.plug_by_tap.get(&plug.interface) {
                Some(other) => {
                    let why = format!("interface {} is already that of port {other}", plug.interface);
                    ledger.skipped.insert(plug.id.to_string(), why);
                }
                None if ledger.plugs.contains_key(&plug.id) => {}
                None => ledger.put_plug(plug),
            }
        }
        ledger.await_again(&records.awaited);
        for instance in records.instances {
            if INSTANCE_RDS.contains(&instance.number) && ledger.numbers.insert(instance.number) {
                ledger.instances.insert(instance.id.clone(), instance);
            }
        }
        for (number, attachment) in records.attachments {
            ledger.attachment_numbers.insert(number);
            if let Some((first, _)) = ledger.attachments.get(&attachment.key()) {
                let why = format!("it is about the same endpoint as attachment {first}");
                ledger.skipped.insert(format!("attachments/{number}.json"), why);
                continue;
            }
            if !ledger.instances.contains_key(&attachment.instance) {
                ledger.make_instance(&attachment);
            }
            ledger.put_attachment(number, attachment);
        }
        // Behind the greatest number of all begins the search from the smallest.
        ledger.next_attachment = ledger.attachment_numbers.last().map_or(0, |last| last.wrapping_add(1));
        ledger.drop_unused_instances();
        ledger
    }

    fn drop_unused_instances(&mut self) {
        let used: BTreeSet<&String> = self.attachments.keys().map(|key| &key.instance).collect();
        let unused: Vec<String> = self.instances.keys().filter(|id| !used.contains(id)).cloned().collect();
        for id in unused {
            if let Some(instance) = self.instances.remove(&id) {
                self.numbers.remove(&instance.number);
            }
        }
    }

    /// A number that no attachment has, nor a file that is left out: behind the last, where there is room.
    pub(super) fn free_attachment(&mut self) -> u32 {
        let mut number = self.next_attachment;
        // There are many more numbers than attachments may be.
        while self.attachment_numbers.contains(&number) {
            number = number.wrapping_add(1);
        }
        self.next_attachment = number.wrapping_add(1);
        number
    }

    /// Files that are not served, and why, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let named = self.skipped.iter().take(MAX_NAMED);
        let mut problems: Vec<String> = named
            .map(|(file, why)| {
                format!("OpenStack's file {file} is not served: {why}; delete it or correct it, then restart")
            })
            .collect();
        if self.skipped.len() > MAX_NAMED {
            let more = self.skipped.len() - MAX_NAMED;
            problems.push(format!("{more} more of OpenStack's files are not served"));
        }
        problems
    }
}
