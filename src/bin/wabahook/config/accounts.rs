//! The accounts that the configuration declares, and the keys of the operator. A key may be given as itself, by the
//! name of an environment variable, or as its SHA-256 digest, so that the file need not hold it.

use std::collections::BTreeMap;
use std::collections::HashMap;

use serde::Deserialize;
use wabahook::{Account, KeyDigest};

use crate::json::AccountLimitsJson;

use super::operators::OperatorKeys;
use super::{Environment, OneOrMany, SecretText, secret};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountTable {
    name: String,
    api_key: Option<SecretText>,
    api_key_env: Option<String>,
    api_key_sha256: Option<OneOrMany<String>>,
    number: Option<String>,
    #[serde(default)]
    limits: AccountLimitsJson,
    #[serde(default)]
    waba: Vec<WabaTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WabaTable {
    id: String,
    #[serde(default)]
    numbers: Vec<String>,
    #[serde(default)]
    phone_number_ids: BTreeMap<String, String>,
}

/// The operator's keys, given as themselves, as their digests and by environment variables.
pub(super) fn read_operators(
    keys: &[SecretText],
    digests: &[String],
    variables: &[String],
    environment: Environment<'_>,
) -> Result<OperatorKeys, String> {
    let field = "operator_key";
    let plain = keys.iter().map(|key| digest(field, Some(key), None, environment));
    let named = variables.iter().map(|name| digest(field, None, Some(name), environment));
    let digests = digests.iter().map(|text| parsed("operator_key_sha256", text));
    let digests = plain.chain(named).chain(digests).collect::<Result<Vec<_>, String>>()?;
    for (place, one) in digests.iter().enumerate() {
        if digests.iter().take(place).any(|before| before == one) {
            return Err(format!("{field}: the same key is given twice, expected each once"));
        }
    }
    Ok(OperatorKeys::new(digests))
}

/// The declared accounts. Without an operator, who can create others, there must be one.
pub(super) fn read(
    tables: Vec<AccountTable>,
    operators: &OperatorKeys,
    environment: Environment<'_>,
) -> Result<Vec<Account>, String> {
    if tables.is_empty() && operators.is_empty() {
        return Err("account: none is configured, expected at least one [[account]] with a name \
                    and an api_key, or an operator_key, with which accounts are created"
            .to_owned());
    }
    let mut owners: HashMap<KeyDigest, String> = HashMap::new();
    let mut accounts = Vec::new();
    for table in tables {
        let name = table.name.clone();
        let (account, digests) = table.account(environment)?;
        for digest in digests {
            let field = format!("account {name:?}: api_key");
            if operators.contains(&digest) {
                return Err(format!("{field}: the operator has the same one, expected its own"));
            }
            if let Some(other) = owners.insert(digest, name.clone()) {
                return Err(format!(
                    "{field}: account {other:?} has the same one, expected its own"
                ));
            }
        }
        accounts.push(account);
    }
    Ok(accounts)
}

impl AccountTable {
    pub(super) fn has_plain_secret(&self) -> bool {
        self.api_key.is_some()
    }

    /// The account, with the digests of its keys.
    fn account(self, environment: Environment<'_>) -> Result<(Account, Vec<KeyDigest>), String> {
        let mut digests = Vec::new();
        let (plain, variable) = (self.api_key.as_ref(), self.api_key_env.as_ref());
        let field = format!("account {:?}: api_key", self.name);
        let given = OneOrMany::values(self.api_key_sha256.as_ref());
        if plain.is_some() || variable.is_some() || given.is_empty() {
            digests.push(digest(&field, plain, variable, environment)?);
        }
        for text in given {
            digests.push(parsed(&format!("{field}_sha256"), text)?);
        }
        let mut account = Account::new(self.name).limits(self.limits.limits());
        for digest in &digests {
            account = account.api_key_digest(*digest);
        }
        for waba in self.waba {
            account = account.waba(waba.id, waba.numbers);
            for (id, number) in waba.phone_number_ids {
                account = account.phone_number_id(id, number);
            }
        }
        let account = match self.number {
            Some(number) => account.bound_to(number),
            None => account,
        };
        Ok((account, digests))
    }
}

/// The digest of a key that is given as itself or by the name of an environment variable.
fn digest(
    field: &str,
    plain: Option<&SecretText>,
    variable: Option<&String>,
    environment: Environment<'_>,
) -> Result<KeyDigest, String> {
    let key = secret(field, plain, variable, environment)?;
    match key.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(KeyDigest::of(key.as_bytes())),
        false => Err(format!("{field}: expected visible ASCII characters without spaces")),
    }
}

fn parsed(field: &str, text: &str) -> Result<KeyDigest, String> {
    let expected =
        "expected the SHA-256 digest of a key, 64 hexadecimal digits, as sha256sum prints it";
    text.parse().map_err(|_| format!("{field}: {expected}"))
}
