//! An effect failed: what was half done is undone, what does not depend on it goes on.

use agent_api::{ApiError, AttachedPort, ErrorKind, PortKind, SecurityGroup};
use vrouter_types::PortId;

use super::Overlay;
use crate::event::{Answer, CallId, Effect};

impl Overlay {
    pub(super) fn effect_failed(
        &mut self,
        failed: Effect,
        error: ApiError,
        undone: Vec<Effect>,
    ) -> Vec<Effect> {
        if let Effect::OpenPort { port, .. } = &failed {
            self.note_opening(*port, error.kind);
        }
        match &failed {
            // Lost for now, not worth losing a port for. Said in `problems`.
            Effect::AddHostRoute(address) => {
                self.host.failed(*address, error.message);
                return undone;
            }
            Effect::SetUnderlay(_) => {
                self.underlay_failure = Some(error.message);
                return undone;
            }
            // Steps of a way down: the way down goes on.
            Effect::RemoveHostRoute(_)
            | Effect::Withdraw(_)
            | Effect::ClosePort(_)
            | Effect::EndSessionsFrom(_)
            | Effect::PublishFib { .. } => {
                return undone;
            }
            Effect::ForgetPort { port, key } => {
                self.unforgotten.insert(*port, key.clone());
                let error =
                    ApiError::new(ErrorKind::Internal, format!("port {key} no longer forwards, but {error}"));
                return match self.attaching.take() {
                    Some((call, id)) => self.undo_attach(call, id, error, &undone),
                    None => forget_failed(undone, &error),
                };
            }
            Effect::SaveGroup { group, before } => {
                self.group_not_saved(&group.name, before.as_deref().cloned());
                return answered(undone, &error);
            }
            Effect::ForgetGroup { group } => {
                self.group_not_saved(&group.name, Some(SecurityGroup::clone(group)));
                return answered(undone, &error);
            }
            Effect::SetImports(_) => return answered(undone, &error),
            Effect::SetNeighbors { .. } => {
                self.neighbors_failure = Some(error.message.clone());
                return answered(undone, &error);
            }
            // The file is read again later, and the port is gone by then.
            Effect::RemoveSpooled { .. } | Effect::Answer { .. } | Effect::OpenPorts(_) => return undone,
            Effect::SaveAll(writes) => return self.not_saved(writes.clone(), &error, undone),
            Effect::SaveLabels { .. } => {
                self.labels.not_saved();
                if let [Effect::SaveAll(writes), rest @ ..] = undone.as_slice() {
                    // No port is to be known by a label of which the disk does not know.
                    return self.not_saved(writes.clone(), &error, rest.to_vec());
                }
            }
            Effect::OpenPort { .. } | Effect::SavePort(_) | Effect::Originate(_) => {}
        }
        if let (Effect::SavePort(saved), Some((call, was))) = (&failed, self.changing.take())
            && saved.port == was.port
        {
            return self.change_back(call, *was, error);
        }
        match self.attaching.take() {
            Some((call, id)) if !self.may_wait(&failed, &error) => self.undo_attach(call, id, error, &undone),
            _ => self.go_on(&failed, error, undone),
        }
    }

    /// A virtual machine's tap may be made after its port: the port waits for it, which is no failure of the attach.
    fn may_wait(&self, failed: &Effect, error: &ApiError) -> bool {
        let Effect::OpenPort { port, .. } = failed else { return false };
        let is_tap = |port: &super::Port| port.saved.request.kind == PortKind::Tap;
        error.kind == ErrorKind::NotFound && self.ports.get(port).is_some_and(is_tap)
    }

    /// The port that was being attached goes, and its caller hears why. Whatever else was to be done is done.
    fn undo_attach(&mut self, call: CallId, id: PortId, error: ApiError, undone: &[Effect]) -> Vec<Effect> {
        let Some(key) = self.ports.get(&id).map(|port| port.saved.request.key.clone()) else {
            return Vec::new();
        };
        let pending = |effect: &&Effect| matches!(effect, Effect::ForgetPort { .. });
        let mut effects: Vec<Effect> = undone.iter().filter(pending).cloned().collect();
        effects.extend(self.remove(&key));
        effects.push(Effect::Answer { call, answer: Err(error) });
        effects
    }

    /// A port that was there before could not be put into service: it waits, the others go on.
    fn go_on(&mut self, failed: &Effect, error: ApiError, undone: Vec<Effect>) -> Vec<Effect> {
        let Effect::OpenPort { port: id, .. } = failed else { return answered(undone, &error) };
        let Some(port) = self.ports.get(id) else { return answered(undone, &error) };
        let (label, addresses) = (port.saved.label, port.saved.addresses.clone());
        let is_host_route = |effect: &Effect| match effect {
            Effect::AddHostRoute(address) | Effect::RemoveHostRoute(address) => addresses.contains(address),
            _ => false,
        };
        let is_stale = |effect: &Effect| match effect {
            Effect::Originate(route) => route.label == label,
            effect => is_host_route(effect),
        };
        let mut effects = self.take_down(*id);
        self.wait(*id, error.message.clone());
        effects.retain(|effect| !is_host_route(effect));
        // Which of the changes to the host's routes were made is not known here, but what they should be is.
        effects.extend(addresses.iter().map(|address| match self.host_owner(*address) {
            Some(_) => Effect::AddHostRoute(*address),
            None => Effect::RemoveHostRoute(*address),
        }));
        let rest = undone.into_iter().filter(|effect| !is_stale(effect)).collect();
        effects.extend(if self.may_wait(failed, &error) {
            waiting(rest, &error.message)
        } else {
            answered(rest, &error)
        });
        effects
    }
}

/// The port is gone but its file is not: its number is not given away, and deleting is tried again, now and then and
/// whenever the caller asks again. Until then the caller is not told that it is done, nor is a spooled DEL.
fn forget_failed(undone: Vec<Effect>, error: &ApiError) -> Vec<Effect> {
    let spooled = |effect: &Effect| matches!(effect, Effect::RemoveSpooled { .. });
    answered(undone.into_iter().filter(|effect| !spooled(effect)).collect(), error)
}

/// The answers stay, and say that the port waits.
fn waiting(effects: Vec<Effect>, why: &str) -> Vec<Effect> {
    let say = |effect| match effect {
        Effect::Answer { call, answer: Ok(Answer::Attached(attached)) } => {
            let attached = AttachedPort { waits: Some(why.to_owned()), ..attached };
            Effect::Answer { call, answer: Ok(Answer::Attached(attached)) }
        }
        effect => effect,
    };
    effects.into_iter().map(say).collect()
}

/// Turns the answers among the effects into refusals.
fn answered(effects: Vec<Effect>, error: &ApiError) -> Vec<Effect> {
    let refuse = |effect| match effect {
        Effect::Answer { call, .. } => Effect::Answer { call, answer: Err(error.clone()) },
        effect => effect,
    };
    effects.into_iter().map(refuse).collect()
}
