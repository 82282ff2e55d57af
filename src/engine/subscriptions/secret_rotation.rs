//! Gives a subscription another secret. The replaced one signs as well until its overlap ends, so that the
//! receiver can change over at any time in between.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::clock::{fill_random, millis};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::subscription::{LONGEST_MS, RetiringSecret, SubscriptionId};

/// How many replaced secrets still sign along with the newest.
const RETIRING_MAX: usize = 4;

impl Engine {
    /// Gives a subscription another secret, or one made here where none is given, and returns it. The old secret
    /// signs as well for `overlap` (at most 30 days), so that the receiver can change over; zero revokes it, and all
    /// that were replaced before it, at once. At most 4 sign as well as the newest; the oldest goes first. Durable and in
    /// force when it returns: blocks on a sync.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for a secret that cannot sign or a longer overlap; and
    /// as [`subscribe`](Engine::subscribe).
    pub fn rotate_secret(
        &self,
        id: SubscriptionId,
        secret: Option<Secret>,
        overlap: Duration,
    ) -> Result<Secret> {
        let shared = &self.shared;
        let overlap_ms = millis(overlap);
        if overlap_ms > LONGEST_MS {
            let expected = format!("0 to {LONGEST_MS} milliseconds");
            return Err(Error::invalid("overlap_ms", overlap_ms, expected));
        }
        let secret = secret.map_or_else(fresh_secret, Ok)?;
        shared.amend::<Error>(id, |before| {
            let now_ms = shared.clock.wall_ms();
            let mut after = before.clone();
            match after.secret.replace(secret.clone()).filter(|_| overlap_ms > 0) {
                Some(secret) => {
                    after.retiring.retain(|one| one.until_ms > now_ms);
                    after.retiring.push(RetiringSecret { secret, until_ms: now_ms + overlap_ms });
                    let surplus = after.retiring.len().saturating_sub(RETIRING_MAX);
                    after.retiring.drain(..surplus);
                }
                None => after.retiring.clear(),
            }
            Ok(after)
        })?;
        Ok(secret)
    }
}

/// A Standard Webhooks secret with as many random bytes as its hash has.
fn fresh_secret() -> Result<Secret> {
    let mut key = [0_u8; 32];
    fill_random(&mut key).map_err(|error| Error::Poisoned { why: error.to_string() })?;
    Ok(Secret::new(format!("{}{}", Secret::STANDARD_PREFIX, STANDARD.encode(key))))
}
