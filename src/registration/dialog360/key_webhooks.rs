//! The webhooks of a key: which one is the main webhook, and how the further destinations follow it. A
//! further destination has the precedence of its main webhook, so it receives the same events and masks
//! no other subscription, and it waits for the main webhook in force.

use std::sync::Arc;

use super::options::Dialog360;
use crate::engine::{AccountSnapshot, SubscriptionChange};
use crate::profile::Profile;
use crate::subscription::{Precedence, Subscription, SubscriptionId, SubscriptionInfo};

/// The subscription names of the webhooks of a key.
pub(super) const NUMBER: &str = "360dialog (number)";
pub(super) const WABA: &str = "360dialog (WABA)";
const DESTINATION_PREFIX: &str = "360dialog: ";

/// The note that is stored while the further destinations are enabled.
const NOTE: &str = "dialog360.multi_webhook";
const ENABLED: &str = "enabled";

/// The webhooks of a key.
#[derive(Clone)]
pub(super) struct KeyWebhooks<'a> {
    pub(super) number: Option<&'a SubscriptionInfo>,
    pub(super) waba: Option<&'a SubscriptionInfo>,
    /// With their names at 360dialog.
    pub(super) destinations: Vec<(&'a str, &'a SubscriptionInfo)>,
    pub(super) are_enabled: bool,
    fresh_id: SubscriptionId,
}

/// The webhook that further destinations follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct MainWebhook {
    id: SubscriptionId,
    precedence: Precedence,
}

impl<'a> KeyWebhooks<'a> {
    pub(super) fn of(account_snapshot: &'a AccountSnapshot) -> KeyWebhooks<'a> {
        let all = &account_snapshot.subscriptions;
        KeyWebhooks {
            number: named(all, NUMBER),
            waba: named(all, WABA),
            destinations: of_gateway(all)
                .filter_map(|one| Some((one.name.strip_prefix(DESTINATION_PREFIX)?, one)))
                .collect(),
            are_enabled: account_snapshot.notes.get(NOTE).is_some_and(|note| note == ENABLED),
            fresh_id: account_snapshot.fresh_id,
        }
    }

    pub(super) fn destination(&self, name: &str) -> Option<&'a SubscriptionInfo> {
        self.destinations.iter().find(|(known, _)| *known == name).map(|(_, one)| *one)
    }

    /// The main webhook: the number's, or the WABA's if it masks the number's or there is no other.
    pub(super) fn main(&self) -> Option<MainWebhook> {
        let is_masked = self.number.is_none_or(|number| number.precedence != Precedence::Number);
        let waba =
            |waba: &SubscriptionInfo| MainWebhook { id: waba.id, precedence: Precedence::Waba };
        self.number_main().filter(|_| !is_masked).or_else(|| self.waba.map(waba))
    }

    /// The number's webhook as the main one.
    fn number_main(&self) -> Option<MainWebhook> {
        self.number.map(|number| MainWebhook { id: number.id, precedence: Precedence::Number })
    }

    /// Sets the number's webhook, which becomes the main one.
    pub(super) fn set_number(
        &self,
        to: Subscription,
        options: &Dialog360,
    ) -> Vec<SubscriptionChange> {
        let main = MainWebhook { id: self.id_of(self.number), precedence: Precedence::Number };
        let mut changes = vec![put(self.number, to.precedence(Precedence::Number))];
        changes.extend(self.follow(Some(main), self.are_enabled, options));
        changes
    }

    /// Sets the WABA's webhook, which masks the number's or is its fallback.
    pub(super) fn set_waba(
        &self,
        to: Subscription,
        overrides: bool,
        options: &Dialog360,
    ) -> Vec<SubscriptionChange> {
        let waba = MainWebhook { id: self.id_of(self.waba), precedence: Precedence::Waba };
        let main = self.number_main().filter(|_| !overrides).unwrap_or(waba);
        let mut changes = vec![put(self.waba, to.precedence(Precedence::Waba))];
        if let Some(number) = self.number {
            let precedence = if overrides { Precedence::Masked } else { Precedence::Number };
            changes.extend(ranked(number, precedence));
        }
        changes.extend(self.follow(Some(main), self.are_enabled, options));
        changes
    }

    /// Removes the number's webhook; the WABA's becomes the main one, if there is one.
    pub(super) fn unset_number(&self, options: &Dialog360) -> Vec<SubscriptionChange> {
        let Some(number) = self.number else { return Vec::new() };
        let main = KeyWebhooks { number: None, ..self.clone() }.main();
        let mut changes = self.follow(main, self.are_enabled, options);
        changes.push(SubscriptionChange::Remove(number.id));
        changes
    }

    /// Removes the WABA's webhook; the number's becomes the main one, also where the WABA's masked it.
    pub(super) fn unset_waba(&self, options: &Dialog360) -> Vec<SubscriptionChange> {
        let Some(waba) = self.waba else { return Vec::new() };
        let mut changes = self.follow(self.number_main(), self.are_enabled, options);
        changes.extend(self.number.and_then(|number| ranked(number, Precedence::Number)));
        changes.push(SubscriptionChange::Remove(waba.id));
        changes
    }

    /// Enables or disables the further destinations; disabled ones are kept.
    pub(super) fn enable(&self, enabled: bool, options: &Dialog360) -> Vec<SubscriptionChange> {
        let text = if enabled { ENABLED.to_owned() } else { String::new() };
        let mut changes = vec![SubscriptionChange::Note { key: NOTE, text }];
        changes.extend(self.follow(self.main(), enabled, options));
        changes
    }

    /// The changes that make the further destinations follow a main webhook.
    fn follow(
        &self,
        main: Option<MainWebhook>,
        enabled: bool,
        options: &Dialog360,
    ) -> Vec<SubscriptionChange> {
        let each = self.destinations.iter().filter_map(move |(_, one)| {
            let followed = following(Subscription::from(*one), main, enabled, options);
            let same =
                followed.precedence == one.precedence && followed.policy.after == one.policy.after;
            (!same).then(|| SubscriptionChange::Replace(one.id, followed))
        });
        each.collect()
    }

    /// The id of a webhook, or the id that the first created subscription gets.
    fn id_of(&self, one: Option<&SubscriptionInfo>) -> SubscriptionId {
        one.map_or(self.fresh_id, |one| one.id)
    }
}

/// The subscription name of a further destination.
pub(super) fn name_of_destination(name: &str) -> String {
    format!("{DESTINATION_PREFIX}{name}")
}

/// The subscription as a further destination of a main webhook. Without one it receives every event that
/// its filter matches.
pub(super) fn following(
    mut one: Subscription,
    main: Option<MainWebhook>,
    enabled: bool,
    options: &Dialog360,
) -> Subscription {
    one.policy.after = main.filter(|_| options.destinations_wait).map(|main| main.id);
    one.precedence(match main {
        _ if !enabled => Precedence::Masked,
        Some(main) => main.precedence,
        None => Precedence::Independent,
    })
}

pub(super) fn named<'a>(
    all: &'a [Arc<SubscriptionInfo>],
    name: &str,
) -> Option<&'a SubscriptionInfo> {
    of_gateway(all).find(|one| one.name == name)
}

fn of_gateway(all: &[Arc<SubscriptionInfo>]) -> impl Iterator<Item = &SubscriptionInfo> {
    all.iter().map(|one| &**one).filter(|one| one.profile == Profile::Dialog360)
}

fn put(before: Option<&SubscriptionInfo>, to: Subscription) -> SubscriptionChange {
    match before {
        Some(before) => SubscriptionChange::Replace(before.id, to),
        None => SubscriptionChange::Create(to),
    }
}

fn ranked(one: &SubscriptionInfo, precedence: Precedence) -> Option<SubscriptionChange> {
    let ranked =
        || SubscriptionChange::Replace(one.id, Subscription::from(one).precedence(precedence));
    (one.precedence != precedence).then(ranked)
}
