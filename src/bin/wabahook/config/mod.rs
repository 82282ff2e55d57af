//! The configuration file and the command line of `serve`. An unknown key is refused by name, and no message
//! has a secret in it (I9). Whether accounts and limits fit together is checked by `Engine::open`.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Deserializer};
use wabahook::registration::{Dialog360, SessionGateway};
use wabahook::store::PostgresOptions;
use wabahook::{Account, AccountLimits, Config, Durability, KeyDigest, OnDamage, Secret};

use self::accounts::AccountTable;
pub(crate) use self::cluster::ClusterSettings;
use self::cluster::ClusterTable;
use self::gateways::{Dialog360Table, SessionTable};
use self::limits::LimitsTable;
use self::network::NetworkTable;
use self::operators::OperatorKeys;
use self::store::StoreTable;
use crate::command_error::{CommandError, CommandResult};
use crate::json::Text;
use crate::log;
use crate::port::bodies::BodyLimits;
use crate::port::connections::ConnectionLimits;
use crate::port::tls::TlsFiles;

mod accounts;
mod cluster;
mod gateways;
mod limits;
mod network;
pub(crate) mod operators;
mod store;

const LISTEN: &str = "127.0.0.1:7001";
const DATA: &str = "wabahook-data";

/// The configuration file, and the data directory instead of the one that it names.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The data directory [default: `data` of the configuration, or wabahook-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// The command line of `serve`. It wins over the configuration file.
#[derive(Args, Clone)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) files: ConfigArgs,
    /// The address and port to listen on [default: `listen` of the configuration, or
    /// 127.0.0.1:7001]; port 0 chooses a free port and prints it
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// What to log on stderr
    #[arg(long, value_name = "LEVEL", default_value = "warn", env = "WABAHOOK_LOG")]
    pub(crate) log: log::LogLevel,
    /// How to write the log
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "WABAHOOK_LOG_FORMAT")]
    pub(crate) log_format: log::LogFormat,
}

pub(crate) struct HostSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) engine: Config,
    /// The server that stores everything; `None` for the data directory.
    pub(crate) store: Option<PostgresOptions>,
    /// The other hosts that serve the store; `None` where one host serves it all.
    pub(crate) cluster: Option<ClusterSettings>,
    /// The accounts that the file declares, which the engine has too.
    pub(crate) accounts: Vec<Account>,
    pub(crate) operators: OperatorKeys,
    pub(crate) meta: Option<MetaSettings>,
    pub(crate) dialog360: Dialog360,
    pub(crate) session: SessionGateway,
    pub(crate) bodies: BodyLimits,
    pub(crate) connections: ConnectionLimits,
    pub(crate) head_timeout: Duration,
    pub(crate) tls: Option<TlsFiles>,
    /// The limits of accounts that set none of their own.
    pub(crate) account_limits: AccountLimits,
    /// The digests of the settings that only a restart changes, by name.
    pub(crate) fixed: BTreeMap<String, KeyDigest>,
    /// Whether the configuration file itself has an API key or a secret.
    pub(crate) has_plain_secrets: bool,
}

/// The secrets of Meta's callbacks.
#[derive(Clone)]
pub(crate) struct MetaSettings {
    /// One of them signs each callback.
    pub(crate) app_secrets: Vec<Secret>,
    pub(crate) verify_token: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    listen: Option<String>,
    data: Option<PathBuf>,
    tls: Option<TlsFiles>,
    durability: Option<Text<Durability>>,
    on_damage: Option<Text<OnDamage>>,
    #[serde(default)]
    account: Vec<AccountTable>,
    operator_key: Option<OneOrMany<SecretText>>,
    operator_key_sha256: Option<OneOrMany<String>>,
    operator_key_env: Option<OneOrMany<String>>,
    meta: Option<MetaTable>,
    #[serde(default)]
    dialog360: Dialog360Table,
    #[serde(default)]
    session: SessionTable,
    #[serde(default)]
    network: NetworkTable,
    #[serde(default)]
    store: StoreTable,
    cluster: Option<ClusterTable>,
    #[serde(default)]
    limits: LimitsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaTable {
    app_secret: Option<SecretText>,
    app_secret_env: Option<String>,
    app_secrets: Option<Vec<SecretText>>,
    verify_token: Option<SecretText>,
    verify_token_env: Option<String>,
}

/// A value, or a list of them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text, or a list of texts")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values; none where nothing is given.
    fn values(given: Option<&OneOrMany<T>>) -> &[T] {
        match given {
            None => &[],
            Some(OneOrMany::One(one)) => std::slice::from_ref(one),
            Some(OneOrMany::Many(many)) => many,
        }
    }
}

/// A text that no error message repeats, even where a value of another type is given.
struct SecretText(String);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SecretText, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(SecretText(text)),
            other => {
                let found = other.type_str();
                let message = format!("a secret must be a string in quotes, found {found}");
                Err(serde::de::Error::custom(message))
            }
        }
    }
}

/// Looks up an environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the configuration file. The command line wins over it.
pub(crate) fn load(
    files: &ConfigArgs,
    listen: Option<&String>,
    environment: Environment<'_>,
) -> CommandResult<HostSettings> {
    let path = &files.config;
    let text = std::fs::read_to_string(path).map_err(|error| {
        CommandError::Usage(format!(
            "{}: the configuration cannot be read: {error}",
            path.display()
        ))
    })?;
    let named = |problem: String| CommandError::Usage(format!("{}: {problem}", path.display()));
    let mut file: ConfigFile = toml::from_str(&text).map_err(|e| named(located(&text, &e)))?;
    file.listen = listen.cloned().or(file.listen);
    file.data = files.data.clone().or(file.data);
    let fixed = fixed(&text).map_err(|e| named(located(&text, &e)))?;
    let settings = file.into_settings(environment).map_err(named)?;
    Ok(HostSettings { fixed, ..settings })
}

/// The settings that a reload puts in force.
const RELOADED: [&str; 5] =
    ["account", "meta", "operator_key", "operator_key_sha256", "operator_key_env"];

/// The digests of all other settings, so that no secret among them is kept.
fn fixed(text: &str) -> Result<BTreeMap<String, KeyDigest>, toml::de::Error> {
    let mut table: toml::Table = toml::from_str(text)?;
    if let Some(limits) = table.get_mut("limits").and_then(toml::Value::as_table_mut) {
        limits.remove("per_account");
        if limits.is_empty() {
            table.remove("limits");
        }
    }
    let fixed = table.into_iter().filter(|(name, _)| !RELOADED.contains(&name.as_str()));
    Ok(fixed.map(|(name, value)| (name, KeyDigest::of(value.to_string().as_bytes()))).collect())
}

/// The message with the line and the key there. The rest of the line may be a secret.
fn located(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let begun = before.rsplit('\n').next().unwrap_or_default();
    // After the sign the value is wrong, and before it the message names the key.
    let key =
        begun.split_once('=').map_or_else(String::new, |(key, _)| format!("{}: ", key.trim()));
    format!("line {line}: {key}{}", in_words(&error.message().replace('\n', " ")))
}

/// The message of the parser without the names of our types.
fn in_words(message: &str) -> String {
    let types = [
        ("expected u16", "expected a whole number up to 65535"),
        ("expected u32", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected usize", "expected a whole number"),
        ("wanted string or table", "expected a text in quotes"),
    ];
    let known = types.into_iter().find(|(name, _)| message.ends_with(name));
    known.map_or_else(|| message.to_owned(), |(name, words)| message.replace(name, words))
}

impl ConfigFile {
    fn has_plain_secrets(&self) -> bool {
        self.account.iter().any(AccountTable::has_plain_secret)
            || self.operator_key.is_some()
            || self.meta.as_ref().is_some_and(|meta| {
                let lists = meta.app_secrets.is_some();
                lists || meta.app_secret.is_some() || meta.verify_token.is_some()
            })
            || self.network.has_plain_secret()
            || self.store.has_plain_secret()
            || self.cluster.as_ref().is_some_and(ClusterTable::has_plain_secret)
    }

    fn into_settings(mut self, environment: Environment<'_>) -> Result<HostSettings, String> {
        let has_plain_secrets = self.has_plain_secrets();
        let data = self.data.unwrap_or_else(|| DATA.into());
        let connections = self.limits.connections()?;
        let account_limits = std::mem::take(&mut self.limits.per_account).limits();
        let mut engine = Config::new(&data)
            .limits(self.limits.engine())
            .account_limits(account_limits.clone())
            .durability(self.durability.map_or_else(Durability::default, |Text(word)| word))
            .on_damage(self.on_damage.map_or_else(OnDamage::default, |Text(word)| word));
        engine = self.network.apply(engine, environment)?;
        let store =
            self.store.read(&self.network.trusted_roots()?, self.cluster.is_some(), environment)?;
        let shards = self.store.shards(self.cluster.is_some())?;
        let cluster = self.cluster.as_ref();
        let with = (shards, self.tls.is_some());
        let cluster = cluster.map(|table| table.read(store.as_ref(), with, environment));
        let cluster = cluster.transpose()?;
        let operators = accounts::read_operators(
            OneOrMany::values(self.operator_key.as_ref()),
            OneOrMany::values(self.operator_key_sha256.as_ref()),
            OneOrMany::values(self.operator_key_env.as_ref()),
            environment,
        )?;
        let accounts = accounts::read(self.account, &operators, environment)?;
        engine = accounts.iter().cloned().fold(engine.without_default_account(), Config::account);
        let bodies = self.limits.bodies()?;
        let head_timeout = self.limits.head_timeout();
        Ok(HostSettings {
            listen: address(self.listen.as_deref().unwrap_or(LISTEN))?,
            data,
            engine,
            store,
            cluster,
            accounts,
            operators,
            meta: self.meta.map(|meta| meta.read(environment)).transpose()?,
            dialog360: self.dialog360.read()?,
            session: self.session.read()?,
            bodies,
            connections,
            head_timeout,
            tls: self.tls,
            account_limits,
            fixed: BTreeMap::new(),
            has_plain_secrets,
        })
    }
}

fn address(given: &str) -> Result<SocketAddr, String> {
    let found = given.to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| {
        format!("listen: {given:?} given, expected an address and a port, such as {LISTEN}")
    })
}

impl MetaTable {
    fn read(&self, environment: Environment<'_>) -> Result<MetaSettings, String> {
        let app_secrets = self.app_secrets(environment)?.into_iter().map(Secret::new).collect();
        let (plain, variable) = (self.verify_token.as_ref(), self.verify_token_env.as_ref());
        let verify_token = secret("meta.verify_token", plain, variable, environment)?;
        Ok(MetaSettings { app_secrets, verify_token: Secret::new(verify_token) })
    }

    fn app_secrets(&self, environment: Environment<'_>) -> Result<Vec<String>, String> {
        let (plain, variable) = (self.app_secret.as_ref(), self.app_secret_env.as_ref());
        let Some(list) = &self.app_secrets else {
            return Ok(vec![secret("meta.app_secret", plain, variable, environment)?]);
        };
        if plain.is_some() || variable.is_some() {
            let message = "meta.app_secrets: given with meta.app_secret; expected one of the two";
            return Err(message.to_owned());
        }
        if list.is_empty() {
            return Err("meta.app_secrets: empty; expected at least one secret".to_owned());
        }
        let each = list.iter().enumerate().map(|(index, text)| {
            secret(&format!("meta.app_secrets[{index}]"), Some(text), None, environment)
        });
        each.collect()
    }
}

/// A secret, given as itself or by the name of an environment variable.
fn secret(
    field: &str,
    plain: Option<&SecretText>,
    variable: Option<&String>,
    environment: Environment<'_>,
) -> Result<String, String> {
    let text = match (plain, variable) {
        (Some(_), Some(_)) => {
            return Err(format!(
                "{field} and {field}_env are both given; expected one of them, not both"
            ));
        }
        (None, None) => return Err(format!("{field}: missing, expected it or {field}_env")),
        (Some(SecretText(text)), None) => text.clone(),
        (None, Some(variable)) => environment(variable).ok_or_else(|| {
            format!("{field}_env: the environment has no variable {variable:?} in UTF-8")
        })?,
    };
    if text.is_empty() {
        return Err(format!("{field}: it is empty, expected at least one character"));
    }
    // Files and environment variables often add a line end, with which no signature and no key matches.
    if text.trim().len() != text.len() {
        return Err(format!(
            "{field}: it begins or ends with a space or a line end, expected neither"
        ));
    }
    Ok(text)
}

/// Whether every user of this machine can read a file.
#[cfg(unix)]
pub(crate) fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
pub(crate) fn is_world_readable(_path: &Path) -> bool {
    false
}

/// The environment of this process.
pub(crate) fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A path for messages.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "[[account]]\nname = \"acme\"\napi_key = \"acme-key\"\n";

    fn read(text: &str) -> Result<HostSettings, String> {
        let file: ConfigFile = toml::from_str(text).map_err(|e| located(text, &e))?;
        file.into_settings(&|name| (name == "KEY_OF_ACME").then(|| "from-environment".to_owned()))
    }

    fn check_refused(text: &str, says: &[&str]) {
        let message = read(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        for part in says {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
        assert!(!message.contains("hidden") && !message.contains('\n'), "{message}");
    }

    #[test]
    fn stray_line_ends_around_secrets_are_refused() {
        let says = |field: &'static str| [field, "a space or a line end"];
        check_refused("[[account]]\nname = \"acme\"\napi_key = \"hidden \"\n", &says("api_key"));
        for secrets in ["app_secret = \"hidden\\n\"", "app_secrets = [\"new\", \"hidden\\r\\n\"]"] {
            let meta = format!("{ACCOUNT}[meta]\nverify_token = \"t\"\n{secrets}\n");
            check_refused(&meta, &says("meta.app_secret"));
        }
        let token = "[meta]\napp_secret = \"s\"\nverify_token = \" hidden\"\n";
        check_refused(&format!("{ACCOUNT}{token}"), &says("meta.verify_token"));
    }

    #[test]
    fn the_documented_file_is_accepted() {
        let settings = read(
            r#"
            listen = "127.0.0.1:7005"
            data = "elsewhere"
            [[account]]
            name = "acme"
            api_key = "acme-key"
            number = "919999999999"
            [[account.waba]]
            id = "123065260884961"
            numbers = ["919999999999", "918888888888"]
            phone_number_ids = { "106540352242922" = "919999999999" }
            [[account]]
            name = "beta"
            api_key_env = "KEY_OF_ACME"
            [meta]
            app_secret = "s"
            verify_token = "t"
            [dialog360]
            destinations_max = 5
            destinations_wait = false
            [session]
            cors_origins = ["https://app.example"]
            [network]
            allow = ["127.0.0.0/8", "::1"]
            allow_http = true
            roots = "bundled"
            nat64 = ["64:ff9b::/96"]
            proxy = "http://user:hidden@proxy.example:3128"
            [limits]
            queue_events_max = 5
            host_in_flight_max = 9
            generation_bytes = 77
            body_bytes_max = 1000
            connections_max = 100
            "#,
        )
        .unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:7005");
        assert_eq!(settings.engine.path(), Path::new("elsewhere"));
        assert_eq!(settings.bodies.bytes_max, 1000);
        let connections = ConnectionLimits { total: 100, per_address: 50 };
        assert_eq!((settings.connections, settings.has_plain_secrets), (connections, true));
        assert!(settings.meta.is_some());
        let debug = format!("{:?}", settings.engine);
        assert!(
            debug.contains("queue_events_max: 5") && debug.contains("generation_bytes: 77"),
            "{debug}"
        );
        assert!(debug.contains("::1/128") && debug.contains("roots: Bundled"), "{debug}");
        for part in ["nat64: [64:ff9b::/96]", "proxy.is_some: true", "host_in_flight_max: 9"] {
            assert!(debug.contains(part) && !debug.contains("hidden"), "{debug}");
        }
        let dialog360 = Dialog360 { destinations_max: 5, destinations_wait: false };
        assert_eq!(settings.dialog360, dialog360);
        assert_eq!(settings.session.cors_origins, ["https://app.example"]);
        let silent = read(ACCOUNT).unwrap();
        assert!(format!("{:?}", silent.engine).contains("roots: System"));
        let system = read(&format!("{ACCOUNT}[network]\nroots = \"system\"\n")).unwrap();
        assert_eq!(format!("{:?}", system.engine), format!("{:?}", silent.engine));
        assert_eq!(silent.dialog360, Dialog360::default());
        assert_eq!(silent.session, SessionGateway::default());
        assert_eq!(silent.listen.to_string(), LISTEN);
        assert_eq!(silent.data, Path::new(DATA));
        assert_eq!(silent.bodies, BodyLimits::default());
        assert!(silent.meta.is_none());
    }

    #[test]
    fn unknown_keys_are_refused_by_name_and_line() {
        check_refused(&format!("lisen = \"x\"\n{ACCOUNT}"), &["line 1", "`lisen`", "`listen`"]);
        check_refused(&format!("{ACCOUNT}apikey = \"hidden\"\n"), &["line 4", "`apikey`"]);
        check_refused(&format!("{ACCOUNT}[network]\nallowed = []\n"), &["line 5", "`allowed`"]);
        check_refused(&format!("{ACCOUNT}[limits]\nspeed = 1\n"), &["line 5", "`speed`"]);
        check_refused(&format!("{ACCOUNT}[[account.waba]]\nnumber = 1\n"), &["`number`"]);
    }

    #[test]
    fn wrong_toml_and_wrong_types_name_the_line() {
        check_refused("listen = \n", &["line 1"]);
        check_refused(&format!("listen = 7001\n{ACCOUNT}"), &["line 1", "expected a string"]);
        check_refused("[[account]]\nname = \"a\"\napi_key = 77\n", &["line 3", "found integer"]);
        check_refused("[[account]]\napi_key = \"hidden\"\n", &["`name`"]);
        check_refused(&format!("{ACCOUNT}[limits]\ntransport_threads = -1\n"), &["line 5", "-1"]);
    }

    const STORE: &str = "[store]\nkind = \"postgres\"\nurl = \"host=10.0.0.5\"\n";
    const CLUSTER: &str = "[cluster]\nname = \"host-a\"\nkey = \"hidden-0123456789\"\n";

    #[test]
    fn a_wrong_type_names_the_key_and_what_is_right() {
        let replicas = format!("{ACCOUNT}{STORE}replicas = \"one\"\n");
        check_refused(&replicas, &["line 7", "replicas", "\"one\"", "a whole number"]);
        let shards = format!("{ACCOUNT}{STORE}shards = 99999\n");
        check_refused(&shards, &["line 7", "shards", "99999", "a whole number up to 65535"]);
        check_refused(&format!("{ACCOUNT}[store]\nkind = 3\n"), &["line 5", "kind", "quotes"]);
        let inline = "tls = { certificate = 5, key = \"hidden\" }\n";
        check_refused(&format!("{inline}{ACCOUNT}"), &["line 1", "tls", "5"]);
    }

    #[test]
    fn settings_of_the_store_without_its_kind_are_refused() {
        let settings =
            ["url = \"hidden\"", "replicas = 1", "host_name = \"a\"", "lease_ttl_ms = 2000"];
        for setting in settings.into_iter().chain(["url_env = \"KEY_OF_ACME\"", "shards = 4"]) {
            let name = setting.split(' ').next().unwrap();
            let file = format!("{ACCOUNT}[store]\n{setting}\n");
            check_refused(&file, &["store.kind", "missing", name, "\"postgres\""]);
        }
        let sled = format!("{ACCOUNT}[store]\nkind = \"sled\"\nurl = \"hidden\"\n");
        check_refused(&sled, &["store.kind", "\"sled\" given", "url"]);
        assert!(read(&format!("{ACCOUNT}[store]\nkind = \"sled\"\n")).is_ok());
    }

    #[test]
    fn wrong_values_of_the_store_are_refused_with_what_was_given() {
        let refused = |setting: &str, says: &[&str]| {
            check_refused(&format!("{ACCOUNT}{STORE}{setting}\n"), says);
        };
        refused("replicas = 2", &["store.replicas", "2 given", "0 or 1"]);
        refused("lease_ttl_ms = 10", &["store.lease_ttl_ms", "10 given"]);
        refused("host_name = \"\"", &["store.host_name", "\"\" given"]);
        refused("host_name = \"a\\nb\"", &["store.host_name", "a\\nb"]);
        refused("shards = 0", &["store.shards", "0 given", "1 to 256"]);
        refused("shards = 300", &["store.shards", "300 given", "1 to 256"]);
        refused("shards = 4", &["store.shards", "4 given", "[cluster]"]);
    }

    #[test]
    fn wrong_values_of_the_cluster_are_refused_with_what_was_given() {
        let address = "address = \"http://10.0.0.7:7001\"";
        let file = |store: &str, cluster: &str, address: &str| {
            format!("{ACCOUNT}{STORE}{store}\n{cluster}{address}\n")
        };
        assert!(read(&file("", CLUSTER, address)).is_ok());
        let name = file("host_name = \"b\"", CLUSTER, address);
        check_refused(&name, &["store.host_name", "\"b\" given", "cluster.name"]);
        let empty = CLUSTER.replace("host-a", "");
        check_refused(&file("", &empty, address), &["cluster.name", "\"\" given"]);
        let short = CLUSTER.replace("-0123456789", "");
        check_refused(&file("", &short, address), &["cluster.key", "6 characters", "16"]);
        for given in ["http://127.0.0.1:99999", "http://0.0.0.0:7001", "http://[::]:7001"] {
            let wrong = file("", CLUSTER, &format!("address = \"{given}\"\nallow_http = true"));
            check_refused(&wrong, &["cluster.address", given, "reach this one"]);
        }
    }

    #[test]
    fn accounts_need_a_key_of_their_own() {
        check_refused("", &["[[account]]"]);
        check_refused("[[account]]\nname = \"a\"\n", &["account \"a\": api_key", "missing"]);
        check_refused("[[account]]\nname = \"a\"\napi_key = \"\"\n", &["api_key", "empty"]);
        check_refused("[[account]]\nname = \"a\"\napi_key = \"hidden b\"\n", &["without spaces"]);
        let env = "api_key_env = \"NO_SUCH\"\n";
        check_refused(&format!("[[account]]\nname = \"a\"\n{env}"), &["api_key_env", "NO_SUCH"]);
        check_refused(&format!("{ACCOUNT}{env}"), &["api_key", "not both"]);
        let twice = format!("{ACCOUNT}{}", ACCOUNT.replace("\"acme\"", "\"beta\""));
        check_refused(&twice, &["\"beta\"", "\"acme\"", "same"]);
    }

    #[test]
    fn wrong_values_are_refused_with_what_was_given() {
        check_refused(&format!("listen = \"nowhere\"\n{ACCOUNT}"), &["listen", "nowhere"]);
        let allow = format!("{ACCOUNT}[network]\nallow = [\"127.0.0.0/8\", \"local\"]\n");
        check_refused(&allow, &["network.allow[1]", "\"local\"", "127.0.0.0/8"]);
        let nat64 = format!("{ACCOUNT}[network]\nnat64 = [\"10.0.0.0/8\"]\n");
        check_refused(&nat64, &["network.nat64[0]", "64:ff9b::/96"]);
        let proxy = "proxy = \"http://a:hidden@b\"\nproxy_env = \"KEY_OF_ACME\"";
        check_refused(&format!("{ACCOUNT}[network]\n{proxy}\n"), &["network.proxy", "not both"]);
        let roots = format!("{ACCOUNT}[network]\nroots = \"/nowhere/ca.pem\"\n");
        check_refused(&roots, &["network.roots", "\"/nowhere/ca.pem\"", "\"bundled\"", "read"]);
        check_refused(&format!("{ACCOUNT}[limits]\nbody_bytes_max = 0\n"), &["body_bytes_max"]);
        let many = format!("{ACCOUNT}[dialog360]\ndestinations_max = 17\n");
        check_refused(&many, &["dialog360.destinations_max", "17", "16"]);
        let origin = format!("{ACCOUNT}[session]\ncors_origins = [\"app.example\"]\n");
        check_refused(&origin, &["session.cors_origins", "https://app.example"]);
        check_refused(&format!("{ACCOUNT}[meta]\napp_secret = \"hidden\"\n"), &["verify_token"]);
        check_refused(&format!("{ACCOUNT}[meta]\nverify_token = \"hidden\"\n"), &["app_secret"]);
    }

    #[test]
    fn meta_has_one_app_secret_or_a_list_of_them() {
        let meta = |keys: &str| format!("{ACCOUNT}[meta]\nverify_token = \"t\"\n{keys}\n");
        let secrets = |keys: &str| read(&meta(keys)).unwrap().meta.unwrap().app_secrets;
        assert_eq!(secrets("app_secret = \"a\"").len(), 1);
        assert_eq!(secrets("app_secret_env = \"KEY_OF_ACME\"").len(), 1);
        assert_eq!(secrets("app_secrets = [\"new\", \"old\"]").len(), 2);
        check_refused(&meta("app_secrets = []"), &["meta.app_secrets", "at least one"]);
        check_refused(&meta("app_secrets = [\"hidden\", \"\"]"), &["meta.app_secrets[1]", "empty"]);
        let both = meta("app_secrets = [\"hidden\"]\napp_secret = \"hidden\"");
        check_refused(&both, &["meta.app_secrets", "one of the two"]);
    }

    #[test]
    fn a_cluster_needs_a_server_an_address_and_a_key() {
        let store = "[store]\nkind = \"postgres\"\nurl = \"host=a\"\n";
        let cluster =
            "[cluster]\naddress = \"http://10.0.0.7:7001/\"\nkey = \"hidden-cluster-key\"\n";
        let settings = read(&format!("{ACCOUNT}{store}shards = 32\n{cluster}")).unwrap();
        let cluster_shown = format!("{:?}", settings.cluster.unwrap().fleet);
        assert!(cluster_shown.contains("address: \"http://10.0.0.7:7001\""), "{cluster_shown}");
        assert!(cluster_shown.contains("shards: 32"), "{cluster_shown}");
        assert!(settings.has_plain_secrets);
        check_refused(&format!("{ACCOUNT}{cluster}"), &["cluster", "[store]"]);
        check_refused(&format!("{ACCOUNT}{store}shards = 2\n"), &["store.shards", "[cluster]"]);
        check_refused(&format!("{ACCOUNT}{store}shards = 0\n{cluster}"), &["store.shards", "256"]);
        let with = |from: &str, to: &str| format!("{ACCOUNT}{store}{}", cluster.replace(from, to));
        check_refused(&with("http:", "https:"), &["cluster.ca", "missing"]);
        let ca = "ca = \"/nowhere/ca.pem\"\naddress";
        check_refused(&with("address", ca), &["cluster.ca", "/nowhere/ca.pem"]);
        check_refused(&with("http:", "ftp:"), &["cluster.address", "https://"]);
        for elsewhere in ["192.0.2.7", "host-b", "[2001:db8::1]"] {
            let refused = with("10.0.0.7", elsewhere);
            check_refused(&refused, &["cluster.address", "https://", "cluster.allow_http"]);
            read(&refused.replace("[cluster]", "[cluster]\nallow_http = true")).unwrap();
        }
        for private in ["127.0.0.1", "localhost", "[fd00::7]", "172.16.0.1"] {
            read(&with("10.0.0.7", private)).unwrap();
        }
        check_refused(&with("7001/", "7001/x"), &["cluster.address"]);
        check_refused(&with("hidden-cluster-key", "hidden"), &["cluster.key", "16"]);
        check_refused(&with("key =", "name ="), &["cluster.key", "missing"]);
        let tls = "tls = { certificate = \"c\", key = \"k\" }\n";
        check_refused(
            &format!("{tls}{ACCOUNT}{store}{cluster}"),
            &["cluster.address", "tls", "https://"],
        );
    }

    #[test]
    fn secrets_of_the_environment_are_not_in_the_file() {
        let by_name = "[[account]]\nname = \"acme\"\napi_key_env = \"KEY_OF_ACME\"\n";
        assert!(!read(by_name).unwrap().has_plain_secrets);
        assert!(read(ACCOUNT).unwrap().has_plain_secrets);
        let meta = "[meta]\napp_secrets = [\"s\"]\nverify_token_env = \"KEY_OF_ACME\"\n";
        assert!(read(&format!("{by_name}{meta}")).unwrap().has_plain_secrets);
    }

    #[test]
    fn a_missing_file_is_named() {
        let files = ConfigArgs { config: "/nowhere/w.toml".into(), data: None };
        let Err(CommandError::Usage(message)) = load(&files, None, &|_| None) else {
            panic!("loaded")
        };
        assert!(message.starts_with("/nowhere/w.toml: "), "{message}");
    }
}
