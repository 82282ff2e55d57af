//! Decides how the webhooks of a key stand to each other: which one is the main webhook, and how the
//! further destinations follow it.
//!
//! Leaves to others: which of a number's and a WABA's webhook gets an event (`routing::precedence`).
//! Invariant: a further destination ranks as its main webhook does, so it gets the events that one
//! gets and silences nobody; and it waits for the one that is in force.

use std::sync::Arc;

use super::Dialog360;
use crate::engine::{Change, Standing};
use crate::subscription::{Level, Profile, Registered, Subscription, SubscriptionId};

/// The names that tell the webhooks of a key apart from all else that the account subscribed to.
pub(super) const NUMBER: &str = "360dialog (number)";
pub(super) const WABA: &str = "360dialog (WABA)";
const DESTINATION_PREFIX: &str = "360dialog: ";

/// What is kept when the further destinations are switched on.
const NOTE: &str = "dialog360.multi_webhook";
const ENABLED: &str = "enabled";

/// The webhooks of a key.
pub(super) struct Hooks<'a> {
    pub(super) number: Option<&'a Registered>,
    pub(super) waba: Option<&'a Registered>,
    /// With the names by which 360dialog knows them.
    pub(super) destinations: Vec<(&'a str, &'a Registered)>,
    pub(super) are_enabled: bool,
    fresh_id: SubscriptionId,
}

/// What further destinations follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Main {
    id: SubscriptionId,
    level: Level,
}

impl<'a> Hooks<'a> {
    pub(super) fn of(standing: &'a Standing) -> Hooks<'a> {
        let all = &standing.subscriptions;
        Hooks {
            number: named(all, NUMBER),
            waba: named(all, WABA),
            destinations: of_gateway(all)
                .filter_map(|one| Some((one.name.strip_prefix(DESTINATION_PREFIX)?, one)))
                .collect(),
            are_enabled: standing.notes.get(NOTE).is_some_and(|note| note == ENABLED),
            fresh_id: standing.fresh_id,
        }
    }

    /// The further destination of a name.
    pub(super) fn destination(&self, name: &str) -> Option<&'a Registered> {
        self.destinations.iter().find(|(known, _)| *known == name).map(|(_, one)| *one)
    }

    /// The main webhook: the number's, unless the WABA's silences it or there is none.
    pub(super) fn main(&self) -> Option<Main> {
        let in_force = self.number.filter(|number| number.level == Level::Number);
        let of = |one: &Registered, level| Main { id: one.id, level };
        let number = in_force.map(|number| of(number, Level::Number));
        number.or_else(|| self.waba.map(|waba| of(waba, Level::Waba)))
    }

    /// Sets the number's webhook, which is the main one from then on.
    pub(super) fn set_number(&self, to: Subscription, options: &Dialog360) -> Vec<Change> {
        let main = Main { id: self.id_of(self.number), level: Level::Number };
        let mut changes = vec![put(self.number, to.level(Level::Number))];
        changes.extend(self.follow(Some(main), self.are_enabled, options));
        changes
    }

    /// Sets the WABA's webhook, which silences the number's or comes after it.
    pub(super) fn set_waba(
        &self,
        to: Subscription,
        overrides: bool,
        options: &Dialog360,
    ) -> Vec<Change> {
        let waba = Main { id: self.id_of(self.waba), level: Level::Waba };
        let number = self.number.map(|number| Main { id: number.id, level: Level::Number });
        let main = number.filter(|_| !overrides).unwrap_or(waba);
        let mut changes = vec![put(self.waba, to.level(Level::Waba))];
        if let Some(number) = self.number {
            let level = if overrides { Level::Masked } else { Level::Number };
            changes.extend(ranked(number, level));
        }
        changes.extend(self.follow(Some(main), self.are_enabled, options));
        changes
    }

    /// Switches the further destinations on or off; those that are off are kept.
    pub(super) fn enable(&self, enabled: bool, options: &Dialog360) -> Vec<Change> {
        let text = if enabled { ENABLED.to_owned() } else { String::new() };
        let mut changes = vec![Change::Note { key: NOTE, text }];
        changes.extend(self.follow(self.main(), enabled, options));
        changes
    }

    /// What there is to change so that the further destinations follow a main webhook.
    fn follow(
        &self,
        main: Option<Main>,
        enabled: bool,
        options: &Dialog360,
    ) -> impl Iterator<Item = Change> {
        let each = self.destinations.iter().filter_map(move |(_, one)| {
            let followed = following(Subscription::from(*one), main, enabled, options);
            let same = followed.level == one.level && followed.policy.after == one.policy.after;
            (!same).then(|| Change::Replace(one.id, followed))
        });
        each.collect::<Vec<_>>().into_iter()
    }

    /// The id of a webhook, or the one that it gets where it is the first that is created.
    fn id_of(&self, one: Option<&Registered>) -> SubscriptionId {
        one.map_or(self.fresh_id, |one| one.id)
    }
}

/// The name under which a further destination is kept.
pub(super) fn name_of_destination(name: &str) -> String {
    format!("{DESTINATION_PREFIX}{name}")
}

/// The subscription as a further destination of a main webhook. Without one it gets all that it asks
/// for.
pub(super) fn following(
    mut one: Subscription,
    main: Option<Main>,
    enabled: bool,
    options: &Dialog360,
) -> Subscription {
    one.policy.after = main.filter(|_| options.destinations_wait).map(|main| main.id);
    one.level(match main {
        _ if !enabled => Level::Masked,
        Some(main) => main.level,
        None => Level::Beside,
    })
}

/// The webhook of a name.
pub(super) fn named<'a>(all: &'a [Arc<Registered>], name: &str) -> Option<&'a Registered> {
    of_gateway(all).find(|one| one.name == name)
}

fn of_gateway(all: &[Arc<Registered>]) -> impl Iterator<Item = &Registered> {
    all.iter().map(|one| &**one).filter(|one| one.profile == Profile::Dialog360)
}

fn put(before: Option<&Registered>, to: Subscription) -> Change {
    match before {
        Some(before) => Change::Replace(before.id, to),
        None => Change::Create(to),
    }
}

fn ranked(one: &Registered, level: Level) -> Option<Change> {
    let ranked = || Change::Replace(one.id, Subscription::from(one).level(level));
    (one.level != level).then(ranked)
}
