//! Accounts, the numbers and WABAs they own, and their API keys. A number and a WABA belong to at most
//! one account (I9). API keys are compared in constant time and never printed.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::error::{Error, Result};
use crate::event::{NumberInput, WabaNumber, number_input};
use crate::secret::Secret;
use crate::text::{NAME_EXPECTED, is_name};

/// The name of the account of a host that configures none.
pub const DEFAULT_ACCOUNT: &str = "default";

/// A customer of the host, with the WABAs and numbers it may register and publish for.
///
/// ```
/// use wabahook::{Account, Config};
/// let config = Config::new("outbox").account(
///     Account::new("acme").api_key("acme-key").waba("123065260884961", ["919999999999"]),
/// );
/// # let _ = config;
/// ```
#[derive(Debug, Clone)]
pub struct Account {
    name: Arc<str>,
    api_key: Option<Secret>,
    wabas: Vec<Waba>,
    bound: Option<NumberInput>,
    /// Whether it may use every number, as the default account may.
    is_open: bool,
}

/// One WhatsApp Business Account (WABA) with its numbers.
#[derive(Debug, Clone)]
struct Waba {
    id: String,
    numbers: Vec<NumberInput>,
    phone_number_ids: Vec<(String, NumberInput)>,
}

impl Account {
    /// An account without WABAs.
    pub fn new(name: impl Into<String>) -> Account {
        Account {
            name: name.into().into(),
            api_key: None,
            wabas: Vec::new(),
            bound: None,
            is_open: false,
        }
    }

    /// The key that authenticates requests of the account. Without one no request can act for it.
    #[must_use]
    pub fn api_key(mut self, api_key: impl Into<String>) -> Account {
        self.api_key = Some(Secret::new(api_key));
        self
    }

    /// Adds a WABA with its display numbers.
    #[must_use]
    pub fn waba<N: AsRef<str>>(
        mut self,
        id: impl Into<String>,
        numbers: impl IntoIterator<Item = N>,
    ) -> Account {
        let numbers = numbers.into_iter().map(|n| number_input(n.as_ref())).collect();
        self.wabas.push(Waba { id: id.into(), numbers, phone_number_ids: Vec::new() });
        self
    }

    /// Maps one of Meta's `phone_number_id`s to a number of the WABA added last. It wins over the display
    /// number of a callback.
    #[must_use]
    pub fn phone_number_id(mut self, id: impl Into<String>, number: impl AsRef<str>) -> Account {
        if let Some(waba) = self.wabas.last_mut() {
            waba.phone_number_ids.push((id.into(), number_input(number.as_ref())));
        }
        self
    }

    /// The number that the API key stands for where a gateway has one key per number.
    #[must_use]
    pub fn bound_to(mut self, number: impl AsRef<str>) -> Account {
        self.bound = Some(number_input(number.as_ref()));
        self
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name, shared rather than copied into each event: thousands of small blocks that other threads
    /// free make an allocator pause in the middle of `publish`.
    pub(crate) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// The number that the API key stands for, if it is bound to one.
    pub fn bound_number(&self) -> Option<WabaNumber> {
        self.bound.as_ref()?.as_ref().ok().copied()
    }

    /// The ids of its WABAs, in the order configured.
    pub fn waba_ids(&self) -> impl Iterator<Item = &str> {
        self.wabas.iter().map(|waba| waba.id.as_str())
    }
}

/// The accounts of an engine, checked and indexed when it opens.
///
/// ```
/// # use wabahook::{Account, Config, Engine};
/// # let directory = tempfile::tempdir()?;
/// let acme = Account::new("acme").api_key("acme-key").waba("123065260884961", ["919999999999"]);
/// let engine = Engine::open(Config::new(directory.path()).account(acme))?;
/// let accounts = engine.accounts();
/// assert_eq!(accounts.authenticate(b"acme-key").map(|account| account.name()), Some("acme"));
/// assert!(accounts.owner_of_number("918888888888".parse()?).is_none());
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Accounts {
    accounts: Vec<Account>,
    by_name: HashMap<Arc<str>, usize>,
    by_number: HashMap<WabaNumber, (usize, String)>,
    by_waba: HashMap<String, (usize, Vec<WabaNumber>)>,
    by_phone_number_id: HashMap<String, WabaNumber>,
}

impl Accounts {
    /// Checks and indexes the accounts. Without any there is one that may use every number.
    pub(crate) fn new(mut accounts: Vec<Account>) -> Result<Accounts> {
        if accounts.is_empty() {
            accounts.push(Account { is_open: true, ..Account::new(DEFAULT_ACCOUNT) });
        }
        let mut all = Accounts {
            accounts: Vec::new(),
            by_name: HashMap::new(),
            by_number: HashMap::new(),
            by_waba: HashMap::new(),
            by_phone_number_id: HashMap::new(),
        };
        for (index, account) in accounts.iter().enumerate() {
            all.add(index, account)?;
        }
        all.accounts = accounts;
        Ok(all)
    }

    fn add(&mut self, index: usize, account: &Account) -> Result<()> {
        if !is_name(&account.name) {
            return Err(Error::invalid("account.name", &account.name, NAME_EXPECTED));
        }
        if self.by_name.insert(account.name.clone(), index).is_some() {
            return Err(Error::invalid("account.name", &account.name, "a name used once"));
        }
        if account.api_key.as_ref().is_some_and(|key| !is_usable_key(key)) {
            let expected =
                "a text without line ends or surrounding spaces, as a header can hold it";
            return Err(Error::invalid("account.api_key", "[redacted]", expected));
        }
        for waba in &account.wabas {
            self.add_waba(index, waba)?;
        }
        if let Some(bound) = &account.bound {
            let number = check_number("account.number", bound)?;
            if self.owner_index(number) != Some(index) {
                return Err(Error::invalid("account.number", number, "a number of the account"));
            }
        }
        Ok(())
    }

    fn add_waba(&mut self, index: usize, waba: &Waba) -> Result<()> {
        if waba.id.is_empty() {
            return Err(Error::invalid("account.waba.id", "", "the id of a WABA"));
        }
        let mut numbers = Vec::new();
        for given in &waba.numbers {
            let number = check_number("account.waba.numbers", given)?;
            if self.by_number.insert(number, (index, waba.id.clone())).is_some() {
                return Err(Error::invalid(
                    "account.waba.numbers",
                    number,
                    "a number named once, under one WABA of one account",
                ));
            }
            numbers.push(number);
        }
        for (id, given) in &waba.phone_number_ids {
            let number = check_number("account.waba.phone_number_ids", given)?;
            if !numbers.contains(&number)
                || self.by_phone_number_id.insert(id.clone(), number).is_some()
            {
                return Err(Error::invalid(
                    "account.waba.phone_number_ids",
                    id,
                    "an id named once, for a number of the same WABA",
                ));
            }
        }
        if self.by_waba.insert(waba.id.clone(), (index, numbers)).is_some() {
            return Err(Error::invalid("account.waba.id", &waba.id, "a WABA named once"));
        }
        Ok(())
    }

    /// The account of this name; without a name, the only account.
    pub(crate) fn resolve(&self, name: Option<&str>) -> Result<&Account> {
        let Some(name) = name else {
            return match self.accounts.as_slice() {
                [only] => Ok(only),
                _ => Err(Error::invalid("account", "", "one of the configured accounts")),
            };
        };
        let index = self.by_name.get(name);
        index
            .and_then(|index| self.accounts.get(*index))
            .ok_or_else(|| Error::invalid("account", name, "one of the configured accounts"))
    }

    /// The account of an API key. Takes the same time whichever key matches, if any.
    pub fn authenticate(&self, api_key: &[u8]) -> Option<&Account> {
        let given = Sha256::digest(api_key);
        let mut found = u64::MAX;
        for (index, account) in (0_u64..).zip(&self.accounts) {
            let Some(expected) = &account.api_key else { continue };
            let same: Choice = Sha256::digest(expected.reveal()).ct_eq(&given);
            found = u64::conditional_select(&found, &index, same);
        }
        self.accounts.get(usize::try_from(found).ok()?)
    }

    /// The account of the API key in a header value, with or without `Bearer` in front.
    pub fn authenticate_header(&self, value: &[u8]) -> Option<&Account> {
        self.authenticate(key_in_header(value))
    }

    /// The account that owns a number.
    pub fn owner_of_number(&self, number: WabaNumber) -> Option<&Account> {
        self.accounts.get(self.owner_index(number)?)
    }

    /// The account that owns a WABA.
    pub fn owner_of_waba(&self, waba_id: &str) -> Option<&Account> {
        self.accounts.get(self.by_waba.get(waba_id)?.0)
    }

    /// The id of the WABA that a number belongs to.
    pub fn waba_of_number(&self, number: WabaNumber) -> Option<&str> {
        self.by_number.get(&number).map(|(_, waba_id)| waba_id.as_str())
    }

    /// The number configured for one of Meta's `phone_number_id`s.
    pub fn number_of(&self, phone_number_id: &str) -> Option<WabaNumber> {
        self.by_phone_number_id.get(phone_number_id).copied()
    }

    /// The numbers of a WABA. Empty for an unknown one.
    pub fn numbers_of_waba(&self, waba_id: &str) -> &[WabaNumber] {
        self.by_waba.get(waba_id).map_or(&[], |(_, numbers)| numbers)
    }

    /// Whether the account may publish and register for the number.
    pub fn may_use_number(&self, account: &Account, number: WabaNumber) -> bool {
        account.is_open || self.owner_of_number(number).is_some_and(|o| o.name == account.name)
    }

    /// Whether the account may publish an event of the number and this WABA: it owns the number, or it owns
    /// the WABA and no other account owns the number.
    pub fn may_publish_for(
        &self,
        account: &Account,
        number: WabaNumber,
        waba_id: Option<&str>,
    ) -> bool {
        let owns_waba = || waba_id.is_some_and(|waba_id| self.may_use_waba(account, waba_id));
        self.may_use_number(account, number)
            || (self.owner_of_number(number).is_none() && owns_waba())
    }

    /// Whether the account may publish for the WABA.
    pub fn may_use_waba(&self, account: &Account, waba_id: &str) -> bool {
        account.is_open || self.owner_of_waba(waba_id).is_some_and(|o| o.name == account.name)
    }

    /// Whether the account may use every number, as the default account may.
    pub fn is_open(&self, account: &Account) -> bool {
        account.is_open
    }

    /// All accounts, in the order configured.
    pub fn iter(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter()
    }

    fn owner_index(&self, number: WabaNumber) -> Option<usize> {
        self.by_number.get(&number).map(|(index, _)| *index)
    }
}

fn check_number(field: &str, given: &NumberInput) -> Result<WabaNumber> {
    given.as_ref().copied().map_err(|text| Error::invalid(field, text, WabaNumber::EXPECTED))
}

/// Whether a request can bring the key in a header. An empty one would let in requests without a key.
fn is_usable_key(key: &Secret) -> bool {
    !key.reveal().is_empty() && !key.has_stray_characters()
}

/// The key of `<key>` or `Bearer <key>`.
fn key_in_header(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    let scheme = value.split_at_checked("Bearer ".len());
    let bearer = scheme.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
    bearer.map_or(value, |(_, key)| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<Account> {
        vec![
            Account::new("acme")
                .api_key("acme-key")
                .waba("1", ["+919999999999", "918888888888"])
                .phone_number_id("77", "918888888888"),
            Account::new("beta").api_key("beta-key").waba("2", ["917777777777"]),
        ]
    }

    fn number(text: &str) -> WabaNumber {
        text.parse().unwrap()
    }

    #[test]
    fn only_its_owner_may_use_a_number_or_a_waba() {
        let all = Accounts::new(two()).unwrap();
        let (acme, beta) = (all.resolve(Some("acme")).unwrap(), all.resolve(Some("beta")).unwrap());
        assert_eq!(all.owner_of_number(number("919999999999")).unwrap().name(), "acme");
        assert_eq!(all.owner_of_waba("2").unwrap().name(), "beta");
        assert_eq!(all.waba_of_number(number("917777777777")), Some("2"));
        assert_eq!(all.waba_of_number(number("916666666666")), None);
        assert!(all.may_use_number(acme, number("918888888888")));
        assert!(!all.may_use_number(beta, number("918888888888")));
        assert!(!all.may_use_number(beta, number("916666666666")));
        assert!(!all.may_use_waba(acme, "2"));
        assert_eq!(all.number_of("77"), Some(number("918888888888")));
    }

    #[test]
    fn only_api_keys_find_an_account() {
        let mut accounts = two();
        accounts.push(Account::new("keyless").waba("3", ["916666666666"]));
        let all = Accounts::new(accounts).unwrap();
        assert_eq!(all.authenticate(b"beta-key").unwrap().name(), "beta");
        for wrong in [&b""[..], b"beta-ke", b"beta-key ", b"keyless"] {
            assert!(all.authenticate(wrong).is_none());
        }
        assert!(!format!("{all:?}").contains("beta-key"));
    }

    #[test]
    fn the_default_account_may_use_everything() {
        let all = Accounts::new(Vec::new()).unwrap();
        let account = all.resolve(None).unwrap();
        assert_eq!(account.name(), DEFAULT_ACCOUNT);
        assert!(all.may_use_number(account, number("916666666666")));
        assert!(all.authenticate(b"").is_none());
    }

    fn check_refused(accounts: Vec<Account>, field: &str) {
        assert_eq!(Accounts::new(accounts).unwrap_err().field(), Some(field));
    }

    #[test]
    fn duplicates_and_invalid_numbers_are_refused() {
        let with = |account: Account| {
            let mut accounts = two();
            accounts.push(account);
            accounts
        };
        check_refused(with(Account::new("acme")), "account.name");
        check_refused(with(Account::new("c").waba("3", ["919999999999"])), "account.waba.numbers");
        check_refused(with(Account::new("c").waba("3", ["none"])), "account.waba.numbers");
        check_refused(with(Account::new("c").waba("2", ["916666666666"])), "account.waba.id");
        check_refused(with(Account::new("c").bound_to("919999999999")), "account.number");
        for key in ["", "key\n", " key", "key\r\n", "k\tey"] {
            check_refused(with(Account::new("c").api_key(key)), "account.api_key");
        }
        check_refused(
            with(
                Account::new("c").waba("3", ["916666666666"]).phone_number_id("5", "917777777777"),
            ),
            "account.waba.phone_number_ids",
        );
    }

    fn check_key(value: &str, key: &str) {
        assert_eq!(key_in_header(value.as_bytes()), key.as_bytes(), "{value}");
    }

    #[test]
    fn a_key_is_read_with_and_without_bearer() {
        check_key("acme-key", "acme-key");
        check_key("Bearer acme-key", "acme-key");
        check_key("bearer  acme-key", "acme-key");
        check_key("Bearer", "Bearer");
        check_key("Basic acme-key", "Basic acme-key");
    }
}
