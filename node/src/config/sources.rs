//! Where settings come from: flags over variables over the file over defaults.

use super::value::{Kind, Value};
use super::{Config, SETTINGS, Setting};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

const PREFIX: &str = "STOCKROOM_";
/// Variables of the same prefix that are no settings: the file's name, and what `stockctl` reads.
const OTHER_VARIABLES: &[&str] = &[
    "STOCKROOM_CONFIG",
    "STOCKROOM_ENDPOINTS",
    #[cfg(feature = "planted")]
    crate::planted::VARIABLE,
];

/// A setting or its source is wrong. The text names the source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A key or variable that no setting has.
    #[error("{place}: there is no setting {key:?}{}", nearest.as_ref().map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    Unknown {
        /// File or environment.
        place: String,
        /// As it was written.
        key: String,
        /// The setting it looks most like.
        nearest: Option<String>,
    },
    /// A value that is not allowed.
    #[error("{source_name}: {name} {why}")]
    Value {
        /// Where it was given.
        source_name: String,
        /// Which setting.
        name: &'static str,
        /// What is allowed.
        why: String,
    },
    /// The file cannot be read.
    #[error("{}: {why}", path.display())]
    File {
        /// Its name.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A setting that this subcommand needs.
    #[error("{name} is missing: give --{}, {PREFIX}{} or the key in the file", name.replace('_', "-"), name.to_uppercase())]
    Missing {
        /// Which setting.
        name: &'static str,
    },
    /// Settings that do not go together.
    #[error("{0}")]
    Contradiction(String),
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nowhere.
    Default,
    /// In the TOML file.
    File(PathBuf),
    /// In a variable.
    Variable(String),
    /// On the command line.
    Flag(String),
}

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Variable(name) => f.write_str(name),
            Source::Flag(name) => f.write_str(name),
        }
    }
}

/// The text that won for each setting, and where it stood.
#[derive(Debug, Default)]
pub struct Resolved(BTreeMap<&'static str, (String, Source)>);

impl Resolved {
    /// Text and source of a setting of the table.
    pub fn text(&self, setting: &Setting) -> (&str, &Source) {
        match self.0.get(setting.name) {
            Some((text, source)) => (text, source),
            None => (setting.default, &Source::Default),
        }
    }

    /// Reads a setting as its type, within its range.
    pub(super) fn get<T: Value>(&self, name: &'static str) -> Result<T, ConfigError> {
        let setting = find(name).expect("the macro that names it made its row as well");
        let (text, source) = self.text(setting);
        let refuse = |why: String| ConfigError::Value { source_name: source.to_string(), name, why };
        if let (Some(range), false) = (&setting.range, text.is_empty()) {
            let number = u64::parse(text).map_err(|why| refuse(format!("{why}, not {text:?}")))?;
            if !range.contains(&number) {
                let unit = if setting.unit.is_empty() { String::new() } else { format!(" {}", setting.unit) };
                let (least, most) = (range.start(), range.end());
                return Err(refuse(format!("must be {least} to {most}{unit}, not {number}")));
            }
        }
        T::parse(text).map_err(refuse)
    }

    fn set(&mut self, setting: &Setting, text: String, source: Source) {
        self.0.insert(setting.name, (text, source));
    }
}

fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

fn unknown(place: String, key: &str, name: &str, show: impl Fn(&str) -> String) -> ConfigError {
    let nearest = SETTINGS
        .iter()
        .map(|setting| (strsim::jaro_winkler(setting.name, name), setting.name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| show(name));
    ConfigError::Unknown { place, key: key.to_owned(), nearest }
}

/// The flags that every subcommand with settings has: `--config FILE` and one per setting.
#[derive(Debug, Clone, Default)]
pub struct ConfigArgs {
    file: Option<PathBuf>,
    flags: Vec<(&'static str, String)>,
}

fn flag_name(setting: &Setting) -> String {
    setting.name.replace('_', "-")
}

fn flag(setting: &'static Setting) -> Arg {
    let mut help = setting.help.trim().to_owned();
    let mut notes = Vec::new();
    if !setting.default.is_empty() {
        notes.push(format!("default: {}", setting.default));
    }
    notes.push(format!("{PREFIX}{}", setting.name.to_uppercase()));
    help.push_str(&format!(" [{}]", notes.join("; ")));
    let value_name = match (setting.kind, setting.unit) {
        (Kind::Integer, "") => "NUMBER".to_owned(),
        (_, unit) if !unit.is_empty() => unit.to_uppercase(),
        (Kind::List, _) => "LIST".to_owned(),
        _ => "VALUE".to_owned(),
    };
    let action = if setting.kind == Kind::List { ArgAction::Append } else { ArgAction::Set };
    // `--member 1=...` reads better than `--bootstrap 1=...` after the word bootstrap.
    let alias = if setting.name == "bootstrap" { vec!["member"] } else { vec![] };
    Arg::new(setting.name)
        .long(flag_name(setting))
        .visible_aliases(alias)
        .value_name(value_name)
        .action(action)
        .help(help)
        .help_heading(setting.section)
}

impl Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("TOML file of settings, as deploy/stockroom.toml [STOCKROOM_CONFIG]");
        command.arg(file).args(SETTINGS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = ConfigArgs::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<String>("config").map(PathBuf::from).or(self.file.take());
        for setting in SETTINGS {
            if let Some(values) = matches.get_many::<String>(setting.name) {
                let text = values.map(String::as_str).collect::<Vec<_>>().join(",");
                self.flags.push((setting.name, text));
            }
        }
        Ok(())
    }
}

impl ConfigArgs {
    /// The settings in force for this process.
    pub fn resolve(&self) -> Result<(Config, Resolved), ConfigError> {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()));
        self.resolve_with(variables)
    }

    /// The same, with the environment as an argument.
    pub(super) fn resolve_with(
        &self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Config, Resolved), ConfigError> {
        let variables: Vec<_> = variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        let named = variables.iter().find(|(name, _)| name == "STOCKROOM_CONFIG");
        let file = self.file.clone().or_else(|| named.map(|(_, value)| PathBuf::from(value)));
        let mut resolved = Resolved::default();
        if let Some(path) = file {
            read_file(&path, &mut resolved)?;
        }
        read_variables(variables, &mut resolved)?;
        for (name, text) in &self.flags {
            let setting = find(name).expect("flags are made from the table");
            resolved.set(setting, text.clone(), Source::Flag(format!("--{}", flag_name(setting))));
        }
        Ok((Config::from_resolved(&resolved)?, resolved))
    }
}

fn read_variables(variables: Vec<(String, String)>, resolved: &mut Resolved) -> Result<(), ConfigError> {
    for (variable, value) in variables {
        let name = variable[PREFIX.len()..].to_lowercase();
        if OTHER_VARIABLES.contains(&variable.as_str()) || is_service_link(&variable, &value) {
            continue;
        }
        let Some(setting) = find(&name) else {
            let show = |name: &str| format!("{PREFIX}{}", name.to_uppercase());
            return Err(unknown("environment".into(), &variable, &name, show));
        };
        resolved.set(setting, value, Source::Variable(variable));
    }
    Ok(())
}

/// Kubernetes sets `STOCKROOM_SERVICE_HOST`, `STOCKROOM_PORT_8081_TCP=tcp://...` and the like in every
/// container beside a Service called `stockroom`; those are nobody's typing errors.
fn is_service_link(variable: &str, value: &str) -> bool {
    let protocol = ["_TCP", "_UDP", "_SCTP"].iter().any(|p| variable.contains(p));
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || (variable.contains("_PORT_") && protocol)
        || (variable.ends_with("_PORT") && value.contains("://"))
}

fn read_file(path: &Path, resolved: &mut Resolved) -> Result<(), ConfigError> {
    let refuse = |why: String| ConfigError::File { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| refuse(error.to_string()))?;
    for (key, value) in table {
        let Some(setting) = find(&key) else {
            return Err(unknown(path.display().to_string(), &key, &key.to_lowercase(), str::to_owned));
        };
        let text = text_of(setting.kind, &value).ok_or_else(|| {
            let wanted = match setting.kind {
                Kind::Integer => "a whole number without quotes",
                Kind::Text => "a string in quotes",
                Kind::List => "a list of strings, [\"a\", \"b\"]",
            };
            refuse(format!("{key} must be {wanted}"))
        })?;
        resolved.set(setting, text, Source::File(path.to_owned()));
    }
    Ok(())
}

/// As it would stand in a variable; `None` for another type than the setting's.
fn text_of(kind: Kind, value: &toml::Value) -> Option<String> {
    match (kind, value) {
        (Kind::Integer, toml::Value::Integer(number)) => Some(number.to_string()),
        (Kind::Text, toml::Value::String(text)) => Some(text.clone()),
        (Kind::List, toml::Value::Array(values)) => {
            let parts: Option<Vec<_>> = values.iter().map(toml::Value::as_str).collect();
            Some(parts?.join(","))
        }
        _ => None,
    }
}
