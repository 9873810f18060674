//! Security groups: given through the API, on disk before that is acknowledged.
//!
//! ```text
//!   put      SaveGroup    PublishFib  Answer
//!   delete   ForgetGroup  PublishFib  Answer
//! ```

use agent_api::{
    ApiError, DEFAULT_SECURITY_GROUP, ErrorKind, SecurityGroup, SecurityGroupChanged, SecurityGroupView,
    SecurityGroups,
};
use vrouter_types::Prefix;

use super::{Overlay, Port};
use crate::event::{Answer, CallId, Effect};
use crate::policy::addresses;
use crate::security_groups::{MAX_GROUPS, built_in, check, check_name};

/// More are not named in a refusal.
const MAX_NAMED: usize = 10;

impl Overlay {
    /// The group of this name; `default` is there without anybody making it.
    pub fn security_group(&self, name: &str) -> Option<SecurityGroup> {
        let built_in = || (name == DEFAULT_SECURITY_GROUP).then(built_in);
        self.groups.get(name).cloned().or_else(built_in)
    }

    /// All groups, and who uses them.
    pub fn security_groups(&self) -> SecurityGroups {
        let names = self.groups.keys().map(String::as_str).chain([DEFAULT_SECURITY_GROUP]);
        let view = |name: &str| Some((name.to_owned(), self.security_group_view(name)?));
        SecurityGroups { security_groups: names.filter_map(view).collect() }
    }

    /// One group, and who uses it.
    pub fn security_group_view(&self, name: &str) -> Option<SecurityGroupView> {
        let ports = self.ports_in(name).map(|port| port.saved.request.key.to_string()).collect();
        Some(SecurityGroupView {
            group: self.security_group(name)?,
            built_in: !self.groups.contains_key(name),
            ports,
            addresses: self.group_members(name),
        })
    }

    /// Whose addresses a rule means that names the group as the other end: its ports on this node, and those it is
    /// told of.
    pub fn group_members(&self, name: &str) -> Vec<Prefix> {
        let given = self.groups.get(name).into_iter().flat_map(|group| group.members.iter().copied());
        let mut members: Vec<Prefix> = self.ports_in(name).flat_map(addresses).chain(given).collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    fn ports_in<'o>(&'o self, name: &'o str) -> impl Iterator<Item = &'o Port> {
        let is_in = move |port: &&Port| {
            port.saved.request.security_groups.iter().flatten().any(|group| group == name)
        };
        self.ports.values().filter(is_in)
    }

    /// What ports and rules name and nobody has made, a sentence each.
    pub(super) fn group_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for port in self.ports.values() {
            for name in port.saved.request.security_groups.iter().flatten() {
                if self.security_group(name).is_none() {
                    problems.push(format!(
                        "port {} is in security group {name:?}, which does not exist and so allows nothing; make it \
                         with vrouterctl security-group set",
                        port.saved.request.key
                    ));
                }
            }
        }
        problems
    }

    pub(super) fn put_group(&mut self, call: CallId, group: SecurityGroup) -> Vec<Effect> {
        let refuse =
            |kind, message: String| vec![Effect::Answer { call, answer: Err(ApiError::new(kind, message)) }];
        if let Err(error) = check(&group) {
            return refuse(ErrorKind::BadRequest, error);
        }
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&group.name) {
            let message =
                format!("there are {MAX_GROUPS} security groups already; delete some that nobody uses");
            return refuse(ErrorKind::Exhausted, message);
        }
        let name = group.name.clone();
        let before = self.groups.insert(name.clone(), group.clone());
        self.ports_revision += 1;
        let answer = Answer::GroupChanged(SecurityGroupChanged { name, existed: before.is_some() });
        vec![
            Effect::SaveGroup { group: Box::new(group), before: before.map(Box::new) },
            Effect::PublishFib { soon: false },
            Effect::Answer { call, answer: Ok(answer) },
        ]
    }

    pub(super) fn delete_group(&mut self, call: CallId, name: &str) -> Vec<Effect> {
        let refuse =
            |kind, message: String| vec![Effect::Answer { call, answer: Err(ApiError::new(kind, message)) }];
        if let Err(error) = check_name(name) {
            return refuse(ErrorKind::BadRequest, error);
        }
        // Whoever is in `default` falls back to the one that is built in.
        let users: Vec<String> = self.ports_in(name).map(|port| port.saved.request.key.to_string()).collect();
        if !users.is_empty() && name != DEFAULT_SECURITY_GROUP {
            let named: Vec<&str> = users.iter().take(MAX_NAMED).map(String::as_str).collect();
            let more = if users.len() > MAX_NAMED { ", …" } else { "" };
            let message = format!(
                "security group {name:?} has {} port(s), which would be cut off: {}{more}; take them out of it first",
                users.len(),
                named.join(", ")
            );
            return refuse(ErrorKind::Conflict, message);
        }
        let gone = |existed| Answer::GroupChanged(SecurityGroupChanged { name: name.to_owned(), existed });
        let Some(group) = self.groups.remove(name) else {
            return vec![Effect::Answer { call, answer: Ok(gone(false)) }];
        };
        self.ports_revision += 1;
        vec![
            Effect::ForgetGroup { group: Box::new(group) },
            Effect::PublishFib { soon: false },
            Effect::Answer { call, answer: Ok(gone(true)) },
        ]
    }

    /// What was not written is not so.
    pub(super) fn group_not_saved(&mut self, name: &str, before: Option<SecurityGroup>) {
        match before {
            Some(before) => self.groups.insert(name.to_owned(), before),
            None => self.groups.remove(name),
        };
        self.ports_revision += 1;
    }
}
