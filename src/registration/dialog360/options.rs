//! The options of 360dialog's API that a host can configure.

use crate::error::{Error, Result};

/// The options of 360dialog's API.
///
/// ```
/// use wabahook::registration::{Dialog360, Registration};
/// use wabahook::{Config, Engine};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// let options = Dialog360 { destinations_max: 5, ..Dialog360::default() };
/// let registration = Registration::new(engine.clone()).dialog360(options)?;
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog360 {
    /// The most further destinations of a key besides its main webhook, 0 to 16. Defaults to 3, as
    /// 360dialog documents. Lowering it keeps existing destinations.
    pub destinations_max: usize,
    /// Whether a further destination receives an event only after the main webhook has answered it with
    /// 200. Defaults to true, as 360dialog does it; with false a failing main webhook delays no other.
    /// A change applies to webhooks that are set from then on.
    pub destinations_wait: bool,
}

impl Default for Dialog360 {
    fn default() -> Dialog360 {
        Dialog360 { destinations_max: 3, destinations_wait: true }
    }
}

/// The most subscriptions that may wait for one.
const DESTINATIONS_MAX: usize = 16;

impl Dialog360 {
    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bound that the engine cannot keep.
    pub fn check(&self) -> Result<()> {
        let given = self.destinations_max;
        if given > DESTINATIONS_MAX {
            let expected = format!("0 to {DESTINATIONS_MAX} destinations");
            return Err(Error::invalid("dialog360.destinations_max", given, expected));
        }
        Ok(())
    }
}
