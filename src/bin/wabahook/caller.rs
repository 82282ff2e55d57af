//! Who sent a request, and whose things it may see. A key of an account sees that account alone (I9). A key of
//! the operator sees all accounts, and names one with `?account=` where a route is about one account.

use axum::extract::Query;
use axum::http::Uri;

use crate::http_error::HttpError;
use crate::port::connections::KeyHolder;

/// The query parameter by which the operator names an account.
pub(crate) const ACCOUNT: &str = "account";

/// Whose key a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Account,
    Operator,
}

/// The sender of a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    role: Role,
    /// The name of the key, for the audit log.
    key_name: String,
    /// The id of the account that the request is about; `None` for all of them.
    account: Option<String>,
}

impl Caller {
    pub(crate) fn of_account(account: impl Into<String>, key_name: impl Into<String>) -> Caller {
        let account = Some(account.into());
        Caller { role: Role::Account, key_name: key_name.into(), account }
    }

    /// The operator, who may have named an account.
    pub(crate) fn operator(account: Option<String>, key_name: impl Into<String>) -> Caller {
        Caller { role: Role::Operator, key_name: key_name.into(), account }
    }

    /// Whose share of the connections a connection with this key counts for.
    pub(crate) fn key_holder(&self) -> KeyHolder<'_> {
        match (self.role, &self.account) {
            (Role::Account, Some(account)) => KeyHolder::Account(account),
            _ => KeyHolder::Host,
        }
    }

    pub(crate) fn is_operator(&self) -> bool {
        self.role == Role::Operator
    }

    pub(crate) fn key_name(&self) -> &str {
        &self.key_name
    }

    /// The id of the account that the request is about, for routes that are about one account.
    pub(crate) fn account(&self) -> Result<&str, HttpError> {
        let missing = "missing; with the operator's key name the account: ?account=<id or name>, or \
                       --account on the command line";
        self.account.as_deref().ok_or_else(|| HttpError::invalid(ACCOUNT, missing))
    }

    /// The id of the account whose things are listed; `None` for all accounts.
    pub(crate) fn scope(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// Whether the things of this account may be shown.
    pub(crate) fn sees(&self, account: &str) -> bool {
        self.scope().is_none_or(|own| own == account)
    }

    /// The only account whose counters the caller may see; `None` if it may see all.
    pub(crate) fn own_counters(&self, has_operator: bool) -> Option<&str> {
        let is_customer = has_operator && !self.is_operator();
        self.account.as_deref().filter(|_| is_customer || self.is_operator())
    }

    /// Refuses all but the operator.
    pub(crate) fn require_operator(&self) -> Result<(), HttpError> {
        match self.role {
            Role::Operator => Ok(()),
            Role::Account => Err(HttpError::forbidden("this route needs the operator's key")),
        }
    }
}

/// The account that a query names with `?account=`.
pub(crate) fn named_account(uri: &Uri) -> Option<String> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    let named = pairs.into_iter().find(|(name, _)| name == ACCOUNT);
    named.map(|(_, value)| value).filter(|value| !value.is_empty())
}
