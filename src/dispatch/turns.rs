//! Decides whose turn it is among the lanes that are ready.
//!
//! Leaves to others: when a lane is ready (`lane`). Invariant (I4): a lane waits in one place at
//! most, and joins behind those that wait already; prompt lanes go before slow ones.
//!
//! Prompt lanes are those never tried and those whose last attempt was answered in time. A slow lane
//! is served when no prompt one is ready, and otherwise after [`PROMPT_TURNS`] of them: its attempt
//! takes no worker from them (`flights`), so it delays nobody, and it never waits for ever.

use std::collections::BTreeMap;

use crate::subscription::SubscriptionId;

/// How many prompt lanes are served before a slow one that waits. A slow lane's turn may start a
/// thread, which costs about as much as so many prompt turns.
pub(super) const PROMPT_TURNS: u32 = 16;

/// The lanes that are ready, in two queues.
#[derive(Debug, Default)]
pub(super) struct Turns {
    prompt: Queue,
    slow: Queue,
    next_turn: u64,
    prompt_in_row: u32,
}

#[derive(Debug, Default)]
struct Queue {
    /// By turn, so that a lane can leave from anywhere in it.
    lanes: BTreeMap<u64, SubscriptionId>,
    /// How many attempts these lanes could start now.
    attempts: usize,
}

/// What a lane that is ready asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// Whether its last attempt went without an answer in time.
    pub(super) slow: bool,
    /// How many attempts it could start now, at least 1.
    pub(super) attempts: usize,
}

/// A lane's place in a queue.
#[derive(Debug)]
pub(super) struct Ticket {
    turn: u64,
    wish: Wish,
}

impl Turns {
    /// Brings a lane's place in line with its wish. A lane that stays keeps its turn.
    pub(super) fn update(
        &mut self,
        id: SubscriptionId,
        ticket: &mut Option<Ticket>,
        wish: Option<Wish>,
    ) {
        if let (Some(held), Some(wish)) = (ticket.as_mut(), wish)
            && held.wish.slow == wish.slow
        {
            let queue = self.queue(wish.slow);
            queue.attempts = queue.attempts - held.wish.attempts + wish.attempts;
            held.wish = wish;
            return;
        }
        self.leave(ticket);
        if let Some(wish) = wish {
            let turn = self.next_turn;
            self.next_turn += 1;
            let queue = self.queue(wish.slow);
            queue.lanes.insert(turn, id);
            queue.attempts += wish.attempts;
            *ticket = Some(Ticket { turn, wish });
        }
    }

    /// Takes a lane out of its queue.
    pub(super) fn leave(&mut self, ticket: &mut Option<Ticket>) {
        if let Some(Ticket { turn, wish }) = ticket.take() {
            let queue = self.queue(wish.slow);
            queue.lanes.remove(&turn);
            queue.attempts -= wish.attempts;
        }
    }

    /// The lane whose turn it is; it keeps its place until it leaves.
    pub(super) fn choose(&mut self, slow_admitted: bool) -> Option<SubscriptionId> {
        let prompt = self.prompt.first();
        let slow = self.slow.first().filter(|_| slow_admitted);
        if prompt.is_some() && (slow.is_none() || self.prompt_in_row < PROMPT_TURNS) {
            self.prompt_in_row += u32::from(slow.is_some());
            return prompt;
        }
        if slow.is_some() {
            self.prompt_in_row = 0;
        }
        slow
    }

    /// How many attempts the ready lanes could start now, of which at most `slow_max` slow ones.
    pub(super) fn attempts(&self, slow_max: usize) -> usize {
        self.prompt.attempts + self.slow.attempts.min(slow_max)
    }

    fn queue(&mut self, slow: bool) -> &mut Queue {
        if slow { &mut self.slow } else { &mut self.prompt }
    }
}

impl Queue {
    fn first(&self) -> Option<SubscriptionId> {
        self.lanes.first_key_value().map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: Option<Wish> = Some(Wish { slow: false, attempts: 1 });
    const SLOW: Option<Wish> = Some(Wish { slow: true, attempts: 2 });

    /// Serves the next lane, which stays ready, and returns its id.
    fn serve(turns: &mut Turns, tickets: &mut [Option<Ticket>], slow_admitted: bool) -> usize {
        let id = turns.choose(slow_admitted).unwrap();
        let place = usize::try_from(id.0).unwrap();
        let wish = tickets[place].as_ref().map(|ticket| ticket.wish);
        turns.leave(&mut tickets[place]);
        turns.update(id, &mut tickets[place], wish);
        place
    }

    fn joined(wishes: &[Option<Wish>]) -> (Turns, Vec<Option<Ticket>>) {
        let mut turns = Turns::default();
        let tickets = (0..)
            .zip(wishes)
            .map(|(id, wish)| {
                let mut ticket = None;
                turns.update(SubscriptionId(id), &mut ticket, *wish);
                ticket
            })
            .collect();
        (turns, tickets)
    }

    #[test]
    fn lanes_take_turns_and_one_that_is_not_ready_gets_none() {
        let (mut turns, mut tickets) = joined(&[PROMPT, None, PROMPT, PROMPT]);
        let served: Vec<_> = (0..6).map(|_| serve(&mut turns, &mut tickets, true)).collect();
        assert_eq!(served, [0, 2, 3, 0, 2, 3]);
    }

    #[test]
    fn a_slow_lane_waits_for_prompt_ones_but_not_for_ever() {
        let (mut turns, mut tickets) = joined(&[SLOW, PROMPT, PROMPT]);
        let turns_of = |turns: &mut Turns, tickets: &mut Vec<_>, admitted| {
            let served: Vec<_> = (0..34).map(|_| serve(turns, tickets, admitted)).collect();
            served.iter().enumerate().filter(|(_, id)| **id == 0).map(|(at, _)| at).collect()
        };
        let slow: Vec<_> = turns_of(&mut turns, &mut tickets, true);
        assert_eq!(slow, [16, 33]);
        let none: Vec<usize> = turns_of(&mut turns, &mut tickets, false);
        assert!(none.is_empty(), "{none:?}");
    }

    #[test]
    fn a_lane_that_turns_slow_changes_its_queue_and_counts_once() {
        let (mut turns, mut tickets) = joined(&[PROMPT, PROMPT]);
        assert_eq!(turns.attempts(9), 2);
        turns.update(SubscriptionId(0), &mut tickets[0], SLOW);
        assert_eq!((turns.attempts(9), turns.attempts(1)), (3, 2));
        assert_eq!(turns.choose(true), Some(SubscriptionId(1)));
        turns.leave(&mut tickets[0]);
        turns.leave(&mut tickets[0]);
        assert_eq!(turns.attempts(9), 1);
    }
}
