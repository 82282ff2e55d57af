//! A macro for filters of events, deliveries and dead letters: each condition is written once and becomes an optional
//! field and a method that sets it. An item matches if it meets every condition that is set.

/// Declares a filter. `given` is what the method takes.
macro_rules! filter {
    (
        $(#[$meta:meta])*
        pub struct $filter:ident {
            $( $(#[$doc:meta])* $name:ident: $type:ty, given $given:ty; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $filter {
            $( $(#[$doc])* pub $name: Option<$type>, )*
        }

        impl $filter {
            /// The same with the account's id where the caller gave its name.
            pub(super) fn resolved(&self, accounts: &$crate::account::Accounts) -> $filter {
                let account = self.account.as_deref().map(|account| accounts.id_of(account));
                $filter { account, ..self.clone() }
            }

            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(mut self, $name: $given) -> $filter {
                    self.$name = Some($name.into());
                    self
                }
            )*
        }
    };
}

pub(super) use filter;
