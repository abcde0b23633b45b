//! Where each setting of a run comes from: flags, the environment, a file of contexts.

use crate::problem::{Exit, Failure};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Whom to ask where nobody says.
pub const DEFAULT_ENDPOINTS: [&str; 3] =
    ["http://127.0.0.1:8081", "http://127.0.0.1:8082", "http://127.0.0.1:8083"];
/// Deadline of a call where nobody says.
const DEFAULT_TIMEOUT_MS: u64 = 5_000;
/// The file.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    /// The context that `stockctl context use` chose.
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Whom to ask.
    pub endpoints: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    /// Deadline of a call.
    pub timeout_ms: Option<u64>,
}

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--endpoints`
    pub endpoints: Option<Vec<String>>,
    /// `--context`
    pub context: Option<String>,
    /// `--timeout-ms`
    pub timeout_ms: Option<u64>,
}

/// What the environment says; variables that are empty count as absent.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    endpoints: Option<String>,
    context: Option<String>,
    /// Where the file is; `None` where no home is known.
    pub file: Option<PathBuf>,
}

impl Environment {
    /// As it is now.
    pub fn read() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let dir = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = dir("XDG_CONFIG_HOME").or_else(|| Some(dir("HOME")?.join(".config")));
        let file = variable("STOCKCTL_CONFIG").map(PathBuf::from);
        Environment {
            endpoints: variable("STOCKROOM_ENDPOINTS"),
            context: variable("STOCKCTL_CONTEXT"),
            file: file.or_else(|| Some(config?.join("stockroom/stockctl.toml"))),
        }
    }

    fn file(&self) -> Result<&Path, Failure> {
        self.file.as_deref().ok_or_else(|| {
            let detail = "neither HOME nor XDG_CONFIG_HOME is set, so there is no place for contexts";
            Failure::local(Exit::Usage, "no_config", "There is no configuration file", detail)
                .step("name one: STOCKCTL_CONFIG=FILE")
        })
    }

    /// The contexts; without a file, there are none.
    ///
    /// # Errors
    /// The file cannot be read, or makes no sense.
    pub fn load(&self) -> Result<File, Failure> {
        let Some(path) = &self.file else { return Ok(File::default()) };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(File::default());
            }
            Err(error) => return Err(Failure::file(&path.display().to_string(), &error)),
        };
        toml::from_str(&text).map_err(|error| {
            let detail = format!("{}: {error}", path.display());
            Failure::local(
                Exit::Usage,
                "bad_config",
                "The configuration file makes no sense",
                detail.trim_end(),
            )
            .step("correct it, or go without it: --endpoints URLS")
        })
    }

    /// Writes the contexts. Whoever reads them meanwhile sees the old ones or the new ones, whole.
    ///
    /// # Errors
    /// There is no place for the file, or it cannot be written.
    pub fn store(&self, file: &File) -> Result<(), Failure> {
        use std::io::Write as _;
        let path = self.file()?;
        let failed = |error: std::io::Error| Failure::file(&path.display().to_string(), &error);
        let text = toml::to_string(file).expect("strings and numbers under names are TOML");
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let part = PathBuf::from(part);
        let written = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&part).and_then(
            |mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            },
        );
        let named = written.and_then(|()| std::fs::rename(&part, path));
        named.map_err(|error| {
            // Nothing better can be done where the disk is full.
            let _ = std::fs::remove_file(&part);
            failed(error)
        })
    }
}

/// What is in force, and why.
#[derive(Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Whom to ask.
    pub endpoints: Vec<String>,
    /// Deadline of a call.
    pub timeout_ms: u64,
    /// The context that is used; `None` where the addresses came from elsewhere.
    context: Option<String>,
    /// Why these.
    pub endpoints_from: String,
    /// Why this.
    pub timeout_from: String,
}

impl Settings {
    /// The deadline of a call.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Of the flags, then the environment, then the file.
    ///
    /// # Errors
    /// A context that is named is not there, or the file makes no sense where it is needed.
    pub fn resolve(flags: &Flags, environment: &Environment) -> Result<Self, Failure> {
        let split = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let named = |name: &String, from: &str| -> Result<_, Failure> {
            let context = find(&environment.load()?, name)?;
            Ok((
                context.endpoints,
                context.timeout_ms,
                Some(name.clone()),
                format!("context {name}, by {from}"),
            ))
        };
        let (endpoints, timeout, context, endpoints_from) = match (&flags.endpoints, &flags.context) {
            (Some(endpoints), _) => (endpoints.clone(), None, None, "--endpoints".to_owned()),
            (None, Some(name)) => named(name, "--context")?,
            (None, None) => match (&environment.endpoints, &environment.context) {
                (Some(text), _) => (split(text), None, None, "STOCKROOM_ENDPOINTS".to_owned()),
                (None, Some(name)) => named(name, "STOCKCTL_CONTEXT")?,
                (None, None) => match environment.load()?.current {
                    Some(name) => named(&name, "stockctl context use")?,
                    None => (DEFAULT_ENDPOINTS.map(str::to_owned).to_vec(), None, None, "default".to_owned()),
                },
            },
        };
        let (timeout_ms, timeout_from) = match (flags.timeout_ms, timeout) {
            (Some(ms), _) => (ms, "--timeout-ms".to_owned()),
            (None, Some(ms)) => (ms, endpoints_from.clone()),
            (None, None) => (DEFAULT_TIMEOUT_MS, "default".to_owned()),
        };
        Ok(Settings { endpoints, timeout_ms, context, endpoints_from, timeout_from })
    }
}

/// The context of this name.
///
/// # Errors
/// There is none.
pub fn find(file: &File, name: &str) -> Result<Context, Failure> {
    file.contexts.get(name).cloned().ok_or_else(|| {
        let names: Vec<&str> = file.contexts.keys().map(String::as_str).collect();
        let known = if names.is_empty() {
            "there are none".into()
        } else {
            format!("there are {}", names.join(", "))
        };
        let detail = format!("there is no context {name:?}: {known}");
        Failure::local(Exit::NotFound, "unknown_context", "There is no such context", detail)
            .step(format!("stockctl context set {name} --endpoints URLS"))
            .step("stockctl context list")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(text: &str) -> (tempfile::TempDir, Environment) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sub/stockctl.toml");
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        (dir, Environment { file: Some(file), ..Environment::default() })
    }

    const FILE: &str = "current = \"c\"\n[contexts.a]\nendpoints = [\"http://a:1\"]\ntimeout_ms = 7\n\
                        [contexts.b]\nendpoints = [\"http://b:1\"]\n[contexts.c]\nendpoints = [\"http://c:1\"]\n";

    #[test]
    fn the_first_that_says_something_decides() {
        let (_dir, file) = environment(FILE);
        let all = Environment {
            endpoints: Some("http://e:1,http://e:2".into()),
            context: Some("b".into()),
            ..file.clone()
        };
        let no_endpoints = Environment { endpoints: None, ..all.clone() };
        let flags = |endpoints: Option<&str>, context: Option<&str>| Flags {
            endpoints: endpoints.map(|text| vec![text.to_owned()]),
            context: context.map(Into::into),
            timeout_ms: None,
        };
        let resolved = |flags: Flags, environment: &Environment| {
            let settings = Settings::resolve(&flags, environment).unwrap();
            (settings.endpoints.join(","), settings.timeout_ms, settings.endpoints_from)
        };
        let is = |endpoints: &str, ms: u64, from: &str| (endpoints.to_owned(), ms, from.to_owned());
        assert_eq!(
            resolved(flags(Some("http://f:1"), Some("a")), &all),
            is("http://f:1", 5_000, "--endpoints")
        );
        assert_eq!(resolved(flags(None, Some("a")), &all), is("http://a:1", 7, "context a, by --context"));
        assert_eq!(
            resolved(flags(None, None), &all),
            is("http://e:1,http://e:2", 5_000, "STOCKROOM_ENDPOINTS")
        );
        assert_eq!(
            resolved(flags(None, None), &no_endpoints),
            is("http://b:1", 5_000, "context b, by STOCKCTL_CONTEXT")
        );
        assert_eq!(
            resolved(flags(None, None), &file),
            is("http://c:1", 5_000, "context c, by stockctl context use")
        );
        let nothing = resolved(flags(None, None), &Environment::default());
        assert_eq!(nothing, is(&DEFAULT_ENDPOINTS.join(","), 5_000, "default"));
        let timed = Flags { timeout_ms: Some(9), ..flags(None, Some("a")) };
        assert_eq!(resolved(timed, &all), is("http://a:1", 9, "context a, by --context"));
        let unknown = Settings::resolve(&flags(None, Some("x")), &all).unwrap_err();
        assert_eq!(
            (unknown.exit, unknown.problem.detail.as_str()),
            (Exit::NotFound, "there is no context \"x\": there are a, b, c")
        );
    }

    #[test]
    fn a_file_that_makes_no_sense_is_named_and_is_no_obstacle_where_it_is_not_needed() {
        let (_dir, bad) = environment("current = \"a\"\n[contexts.a]\nendpoint = [\"http://a:1\"]\n");
        let failure = Settings::resolve(&Flags::default(), &bad).unwrap_err();
        assert_eq!((failure.exit, failure.problem.code.as_str()), (Exit::Usage, "bad_config"));
        assert!(
            failure.problem.detail.contains("stockctl.toml") && failure.problem.detail.contains("endpoint"),
            "{}",
            failure.problem.detail
        );
        let flags = Flags { endpoints: Some(vec!["http://f:1".into()]), ..Flags::default() };
        assert!(Settings::resolve(&flags, &bad).is_ok());
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let (_dir, environment) = environment(FILE);
        let file = environment.load().unwrap();
        environment.store(&file).unwrap();
        assert_eq!(environment.load().unwrap(), file);
    }
}
