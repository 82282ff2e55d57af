//! Checks that an outbox kept its promises across a kill, by what the process reported before it.
//! Nothing depends on timing.
//!
//! Which deliveries may be repeated: a result that a receiver has acknowledged is written with the next
//! group. The next attempt of the same worker shows that the engine knows the result, and a publish
//! that begins after that is in the same group or a later one. Once that publish was accepted, the
//! result is on the device. Every result that is not followed by both is within the window, and its
//! attempt may be repeated (I3).
//!
//! An event of a key comes to the ordered receiver only after all earlier accepted ones of its key (I5).
//!
//! A dead letter whose replay has returned arrives again. One whose replay was interrupted arrives
//! again or is still a dead letter.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::script;

/// The receiver of an event, and the event's id.
pub type Delivery = (String, String);

/// Everything known about what the outbox accepted and what happened to it.
#[derive(Default)]
pub struct Ledger {
    /// The ids of accepted events, by tag.
    accepted: BTreeMap<String, String>,
    /// The ids under which events arrived, by tag, and the tags by id.
    ids: HashMap<String, String>,
    tags: HashMap<String, String>,
    /// How many of them match the bystander.
    rare: u64,
    /// Accepted events that have not been checked yet.
    unjudged: Vec<String>,
    /// Deliveries that ended, and whether the end is known to be on the device.
    ended: HashMap<Delivery, bool>,
    /// Accepted events that have not come to the ordered receiver, by key and place.
    ordered: HashMap<String, BTreeSet<[u32; 3]>>,
    /// The last answer to each delivery.
    answered: HashMap<Delivery, u16>,
    /// Deliveries that died or whose replay began, and that have not been checked yet.
    given_up: BTreeSet<Delivery>,
    /// Deliveries whose replay returned, and that have not arrived again yet.
    replayed: BTreeSet<Delivery>,
    subscribed: BTreeSet<String>,
    /// Calls begun since the last check, accepted or not.
    begun: BTreeSet<String>,
    /// Events with a dedup key published in the last run.
    keyed: Vec<String>,
    pub totals: Totals,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    pub accepted: u64,
    /// Events whose acknowledgement the kill prevented, and that were there.
    pub unacknowledged: u64,
    pub duplicates: u64,
    pub deliveries: u64,
    pub dead: u64,
    pub retries: u64,
    pub replays: u64,
    /// Replays interrupted by a kill, which were on the device or not.
    pub replays_cut: u64,
    /// Ends that were known to be on the device at a kill. None of them may be repeated.
    pub settled: u64,
    /// Ends that were within the window at a kill.
    pub window: u64,
    /// How many of these were repeated.
    pub repeats: u64,
    pub kills: u64,
}

/// What one process reported, in order.
#[derive(Default)]
pub struct Run {
    place: usize,
    ended: HashSet<Delivery>,
    ends: Vec<End>,
    begun: HashMap<String, usize>,
    /// Replays that began and did not return.
    replaying: HashSet<Delivery>,
    /// Where the latest accepted publish began.
    accepted_from: usize,
}

struct End {
    delivery: Delivery,
    worker: String,
    /// Where the worker was seen next.
    noted: Option<usize>,
}

impl Ledger {
    /// Takes one line of a process. An error is a broken promise.
    pub fn hear(&mut self, run: &mut Run, line: &str) -> Result<(), String> {
        run.place += 1;
        let words: Vec<&str> = line.split(' ').collect();
        match *words.as_slice() {
            ["opening" | "opened"] => Ok(()),
            ["subscribed", host] => {
                self.subscribed.insert(host.to_owned());
                Ok(())
            }
            ["begin", call] => {
                run.begun.insert(call.to_owned(), run.place);
                self.begun.insert(call.to_owned());
                self.keyed.extend(script::tags(call).into_iter().filter(|t| script::has_key(t)));
                Ok(())
            }
            ["accepted", call, ref shown @ ..] => {
                let begun = run.begun.get(call).copied().ok_or("accepted before it began")?;
                run.accepted_from = run.accepted_from.max(begun);
                let tags = script::tags(call);
                if tags.len() != shown.len() {
                    return Err(format!("{call} was accepted as {} events", shown.len()));
                }
                tags.iter().zip(shown).try_for_each(|(tag, shown)| self.accept(tag, shown))
            }
            ["again", tag, shown] => self.accept(tag, shown),
            ["answered", worker, host, id, status, tag] => {
                let status = status.parse().map_err(|_| format!("unreadable: {line}"))?;
                let delivery = (host.to_owned(), id.to_owned());
                self.answer(run, worker, delivery, status, tag)
            }
            ["replaying", host, id] => self.replay(run, (host.to_owned(), id.to_owned())),
            ["replayed", host, id] => {
                let delivery = (host.to_owned(), id.to_owned());
                self.totals.replays += 1;
                // Unless it has already arrived again.
                if run.replaying.remove(&delivery) {
                    self.replayed.insert(delivery);
                }
                Ok(())
            }
            _ => Err(line.to_owned()),
        }
    }

    /// Takes the beginning of a replay. From here on the delivery may arrive again.
    fn replay(&mut self, run: &mut Run, delivery: Delivery) -> Result<(), String> {
        if self.replayed.contains(&delivery) {
            return Err(format!("{delivery:?} is a dead letter after its replay returned"));
        }
        if self.answered.get(&delivery) != Some(&404) {
            return Err(format!("{delivery:?} is a dead letter and was not refused"));
        }
        self.ended.remove(&delivery);
        run.ended.remove(&delivery);
        run.ends.retain(|end| end.delivery != delivery);
        self.given_up.insert(delivery.clone());
        run.replaying.insert(delivery);
        Ok(())
    }

    fn accept(&mut self, tag: &str, shown: &str) -> Result<(), String> {
        let parts: Vec<&str> = shown.split(':').collect();
        let [id, owed, duplicate] = *parts.as_slice() else { return Err(shown.to_owned()) };
        if let Some(first) = self.accepted.get(tag) {
            // Published once more with its key.
            self.totals.duplicates += 1;
            let is_known = first == id && duplicate == "1";
            return if is_known { Ok(()) } else { Err(format!("{tag}: {first}, now {shown}")) };
        }
        if self.ids.get(tag).is_some_and(|arrived| arrived != id) {
            return Err(format!("{tag} arrived as {:?}, now {shown}", self.ids.get(tag)));
        }
        let wanted = script::HOSTS.iter().filter(|host| script::wants(host, tag)).count();
        // The kill may have been between an event's group and its receipt; the dedup key knows it.
        let is_known = duplicate == "1" && script::has_key(tag);
        if !is_known && (duplicate == "1" || owed != wanted.to_string()) {
            return Err(format!("{tag} is owed to {wanted}: {shown}"));
        }
        self.totals.duplicates += u64::from(is_known);
        self.totals.accepted += 1;
        self.unjudged.push(tag.to_owned());
        if script::wants(script::ORDERED, tag)
            && !self.ended.contains_key(&(script::ORDERED.to_owned(), id.to_owned()))
        {
            let (key, place) = script::key_and_place(tag);
            self.ordered.entry(key).or_default().insert(place);
        }
        self.accepted.insert(tag.to_owned(), id.to_owned());
        Ok(())
    }

    /// Takes a receiver's answer.
    pub fn answer(
        &mut self,
        run: &mut Run,
        worker: &str,
        delivery: Delivery,
        status: u16,
        tag: &str,
    ) -> Result<(), String> {
        for end in run.ends.iter_mut().filter(|end| end.noted.is_none() && end.worker == worker) {
            end.noted = Some(run.place);
        }
        let (host, id) = &delivery;
        if !script::wants(host, tag) {
            return Err(format!("{host} never asked for {tag}"));
        }
        let before = (
            self.ids.insert(tag.to_owned(), id.clone()),
            self.tags.insert(id.clone(), tag.to_owned()),
        );
        match before {
            (None, None) => self.rare += u64::from(script::wants(script::BYSTANDER, tag)),
            (Some(known_id), Some(known_tag)) if known_id == *id && known_tag == tag => {}
            _ => return Err(format!("{tag} as {id} at {host}, after {before:?}")),
        }
        if self.accepted.get(tag).is_some_and(|accepted| accepted != id) {
            return Err(format!("{tag} was accepted as {:?}, not {id}", self.accepted.get(tag)));
        }
        if host == script::ORDERED {
            let (key, place) = script::key_and_place(tag);
            let owed = self.ordered.entry(key).or_default();
            if owed.first().is_some_and(|first| *first < place) {
                return Err(format!("{tag} came before {:?} of its key", owed.first()));
            }
            if script::is_final(status) {
                owed.remove(&place);
            }
        }
        match self.ended.get(&delivery) {
            Some(_) if run.ended.contains(&delivery) => {
                return Err(format!("{delivery:?} ({tag}) came back without a kill"));
            }
            Some(true) => return Err(format!("{delivery:?} ({tag}) came back beyond the window")),
            Some(false) => self.totals.repeats += 1,
            None => {}
        }
        run.replaying.remove(&delivery);
        self.replayed.remove(&delivery);
        self.answered.insert(delivery.clone(), status);
        if status == 404 {
            self.given_up.insert(delivery.clone());
        }
        match status {
            503 => self.totals.retries += 1,
            404 => self.totals.dead += 1,
            _ => self.totals.deliveries += 1,
        }
        if script::is_final(status) {
            run.ended.insert(delivery.clone());
            self.ended.insert(delivery.clone(), false);
            run.ends.push(End { delivery, worker: worker.to_owned(), noted: None });
        }
        Ok(())
    }

    /// The process was killed. What was on the device by then is final.
    pub fn killed(&mut self, run: Run) {
        self.totals.kills += 1;
        self.totals.replays_cut += run.replaying.len() as u64;
        for end in run.ends {
            let is_settled = end.noted.is_some_and(|noted| noted < run.accepted_from);
            self.totals.settled += u64::from(is_settled);
            self.totals.window += u64::from(!is_settled);
            self.ended.insert(end.delivery, is_settled);
        }
    }

    /// The process closed its engine. Everything that it reported is on the device.
    pub fn closed(&mut self, run: Run) {
        run.ends.into_iter().for_each(|end| {
            self.ended.insert(end.delivery, true);
        });
    }

    /// Checks an outbox that was opened again and has delivered everything it owed, except to the
    /// bystander unless that is `drained`, too. `letters` are its dead letters.
    pub fn judge(
        &mut self,
        subscribed: &BTreeSet<String>,
        letters: &BTreeSet<Delivery>,
        bystander_owed: u64,
        drained: bool,
    ) -> Result<(), String> {
        if !self.subscribed.is_subset(subscribed) {
            return Err(format!("subscribed {:?}, there are {subscribed:?}", self.subscribed));
        }
        for call in std::mem::take(&mut self.begun) {
            self.judge_call(&call)?;
        }
        for tag in std::mem::take(&mut self.unjudged) {
            self.judge_event(
                &tag,
                &[script::SOUND, script::SHAKY, script::REFUSING, script::ORDERED],
            )?;
        }
        for delivery in std::mem::take(&mut self.given_up) {
            self.judge_letter(&delivery, letters)?;
        }
        if drained {
            let mut tags = self.accepted.keys();
            tags.try_for_each(|tag| self.judge_event(tag, &[script::BYSTANDER]))?;
        }
        let expected = if drained { 0 } else { self.rare };
        if bystander_owed != expected {
            return Err(format!("the bystander is owed {bystander_owed} and not {expected}"));
        }
        Ok(())
    }

    /// An accepted event has arrived at every matching receiver.
    fn judge_event(&self, tag: &str, hosts: &[&str]) -> Result<(), String> {
        let id = self.accepted.get(tag).cloned().unwrap_or_default();
        for host in hosts.iter().filter(|host| script::wants(host, tag)) {
            let answered = self.answered.get(&((*host).to_owned(), id.clone()));
            if !answered.is_some_and(|status| script::is_final(*status)) {
                return Err(format!("{tag} ({id}) was accepted and never came to {host}"));
            }
        }
        Ok(())
    }

    /// A delivery that died is a dead letter, or has arrived again since.
    fn judge_letter(
        &self,
        delivery: &Delivery,
        letters: &BTreeSet<Delivery>,
    ) -> Result<(), String> {
        if self.replayed.contains(delivery) {
            return Err(format!("{delivery:?} was replayed and never came again"));
        }
        let came = self.answered.get(delivery) != Some(&404);
        match (came, letters.contains(delivery)) {
            (true, true) => Err(format!("{delivery:?} was taken and is a dead letter")),
            (false, false) => Err(format!("{delivery:?} was given up and is no dead letter")),
            _ => Ok(()),
        }
    }

    /// Either all events of a call are there, or none.
    fn judge_call(&mut self, call: &str) -> Result<(), String> {
        let tags = script::tags(call);
        let arrived = tags.iter().filter(|tag| {
            let id = self.ids.get(*tag).cloned().unwrap_or_default();
            self.ended.contains_key(&(script::SOUND.to_owned(), id))
        });
        let arrived = arrived.count();
        if arrived != 0 && arrived != tags.len() {
            return Err(format!("{arrived} of the {} events of {call} are there", tags.len()));
        }
        if arrived > 0 && !self.accepted.contains_key(&tags[0]) {
            self.totals.unacknowledged += arrived as u64;
        }
        Ok(())
    }

    /// Some events with dedup keys of the last run, the newest, to be published once more.
    pub fn published_again(&mut self) -> Vec<String> {
        let keyed = std::mem::take(&mut self.keyed);
        keyed.into_iter().rev().take(6).collect()
    }
}
