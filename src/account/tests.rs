//! Tests of what finds an account, and of what is refused.

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
    let all = Accounts::declared(&two()).unwrap();
    let (acme, beta) = (all.resolve(Some("acme")).unwrap(), all.resolve(Some("beta")).unwrap());
    assert_eq!(all.owner_of_number(number("919999999999")).unwrap().name(), "acme");
    assert_eq!(all.owner_of_waba("2").unwrap().name(), "beta");
    assert_eq!(all.waba_of_number(number("917777777777")).as_deref(), Some("2"));
    assert_eq!(all.waba_of_number(number("916666666666")), None);
    assert!(all.may_use_number(&acme, number("918888888888")));
    assert!(!all.may_use_number(&beta, number("918888888888")));
    assert!(!all.may_use_number(&beta, number("916666666666")));
    assert!(!all.may_use_waba(&acme, "2"));
    assert_eq!(all.number_of("77"), Some(number("918888888888")));
}

#[test]
fn only_api_keys_find_an_account() {
    let mut accounts = two();
    accounts.push(Account::new("keyless").waba("3", ["916666666666"]));
    accounts.push(Account::new("digest").api_key_digest(KeyDigest::of(b"hidden-key")));
    let all = Accounts::declared(&accounts).unwrap();
    assert_eq!(all.authenticate(b"beta-key").unwrap().name(), "beta");
    assert_eq!(all.authenticate(b"hidden-key").unwrap().name(), "digest");
    assert_eq!(all.authenticate_header(b" Bearer  beta-key ").unwrap().name(), "beta");
    for wrong in [&b""[..], b"beta-ke", b"beta-key ", b"keyless"] {
        assert!(all.authenticate(wrong).is_none());
    }
    assert!(!format!("{all:?} {accounts:?}").contains("beta-key"));
}

#[test]
fn an_expired_key_and_a_suspended_account_are_refused() {
    let all = Accounts::declared(&two()).unwrap();
    let change = |change: &dyn Fn(&mut AccountInfo)| {
        let mut info = (*all.named("acme").unwrap()).clone();
        change(&mut info);
        all.update(|index| index.put(info));
    };
    assert_eq!(all.named("acme").unwrap().keys[0].last_used_at_ms(), None);
    assert!(all.authenticate(b"acme-key").is_some());
    assert!(all.named("acme").unwrap().keys[0].last_used_at_ms().is_some());
    change(&|acme| acme.keys[0].expires_at_ms = Some(1));
    assert!(all.authenticate(b"acme-key").is_none());
    change(&|acme| {
        acme.keys[0].expires_at_ms = None;
        acme.state = AccountState::Suspended;
    });
    assert!(all.authenticate(b"acme-key").is_none());
    assert!(all.identify_header(b"acme-key").is_some());
    assert!(all.authenticate(b"beta-key").is_some(), "a bystander");
}

#[test]
fn a_removed_account_frees_its_name_numbers_and_keys() {
    let all = Accounts::declared(&two()).unwrap();
    let first = all.named("acme").unwrap();
    let removed = AccountInfo { state: AccountState::Removed, ..(*first).clone() };
    all.update(|index| index.put(removed));
    assert!(all.authenticate(b"acme-key").is_none());
    assert!(all.owner_of_number(number("919999999999")).is_none());
    assert_eq!(all.number_of("77"), None);
    let second = two()[0].checked(AccountId::fresh().unwrap(), 9, &[]).unwrap();
    all.check(&second).unwrap();
    all.update(|index| index.put(second));
    let second = all.resolve(Some("acme")).unwrap();
    assert_ne!(second.id, first.id);
    assert!(all.resolve(Some(first.id())).is_err());
    assert_eq!(all.get(first.id()).unwrap().state, AccountState::Removed);
    let back = AccountInfo { state: AccountState::Active, ..(*first).clone() };
    assert_eq!(all.check(&back).unwrap_err().field(), Some("account.name"));
}

#[test]
fn the_default_account_may_use_what_no_other_owns() {
    let all = Accounts::declared(&[]).unwrap();
    let account = all.resolve(None).unwrap();
    assert_eq!(account.name(), DEFAULT_ACCOUNT);
    assert!(all.may_use_number(&account, number("916666666666")));
    assert!(all.authenticate(b"").is_none());
    let acme = two()[0].checked(AccountId::fresh().unwrap(), 9, &[]).unwrap();
    all.update(|index| index.put(acme));
    assert!(!all.may_use_number(&account, number("919999999999")));
    assert!(!all.may_use_waba(&account, "1") && all.may_use_waba(&account, "9"));
    assert_eq!(all.resolve(None).unwrap().id, account.id);
}

fn check_refused(accounts: &[Account], field: &str) {
    assert_eq!(Accounts::declared(accounts).unwrap_err().field(), Some(field));
}

#[test]
fn duplicates_and_invalid_numbers_are_refused() {
    let with = |account: Account| {
        let mut accounts = two();
        accounts.push(account);
        accounts
    };
    check_refused(&with(Account::new("acme")), "account.name");
    check_refused(&with(Account::new("acct_1")), "account.name");
    check_refused(&with(Account::new("c").waba("3", ["919999999999"])), "account.waba.numbers");
    check_refused(&with(Account::new("c").waba("3", ["none"])), "account.waba.numbers");
    check_refused(&with(Account::new("c").waba("2", ["916666666666"])), "account.waba.id");
    let taken = Account::new("c").waba("3", ["919999999999"]).waba("2", ["916666666666"]);
    let twice = Account::new("c").waba("3", ["916666666666"]).waba("3", ["916666666667"]);
    for (account, says) in [
        (Account::new("c").waba("2", ["916666666666"]), "another account owns it"),
        (taken, "another account owns it"),
        (twice, "given twice"),
    ] {
        let error = Accounts::declared(&with(account)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    check_refused(&with(Account::new("c").bound_to("919999999999")), "account.number");
    check_refused(&with(Account::new("c").api_key("beta-key")), "account.api_key");
    for key in ["", "key\n", " key", "key\r\n", "k\tey"] {
        check_refused(&with(Account::new("c").api_key(key)), "account.api_key");
    }
    for id in ["5", "77"] {
        let other = Account::new("c").waba("3", ["916666666666"]);
        let (number, field) = ("917777777777", "account.waba.phone_number_ids");
        check_refused(&with(other.phone_number_id(id, number)), field);
    }
}

/// The least time that a few calls take, of many rounds.
fn cost_of(accounts: &Accounts, key: &[u8]) -> std::time::Duration {
    let round = || {
        let started = std::time::Instant::now();
        for _ in 0..100 {
            std::hint::black_box(accounts.authenticate(std::hint::black_box(key)));
        }
        started.elapsed()
    };
    (0..50).map(|_| round()).min().unwrap()
}

#[test]
fn what_a_key_costs_does_not_grow_with_accounts() {
    let many = |count: u64| {
        let account = |n: u64| Account::new(format!("a{n}")).api_key(format!("key-{n}"));
        Accounts::declared(&(0..count).map(account).collect::<Vec<_>>()).unwrap()
    };
    let (few, many) = (many(10), many(10_000));
    for key in [&b"key-7"[..], b"wrong"] {
        let (of_few, of_many) = (cost_of(&few, key), cost_of(&many, key));
        let ratio = of_many.as_secs_f64() / of_few.as_secs_f64();
        println!(
            "a key among 10,000 accounts costs {ratio:.2} of one among 10 ({of_many:?}, 100 calls)"
        );
        // A scan would cost a thousand times as much; the rest is noise of a busy machine.
        assert!(ratio < 5.0, "{ratio}");
    }
}
