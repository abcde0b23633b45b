//! Contexts: named clusters in a TOML file, so that nobody types addresses.

mod settings;

pub use settings::{Environment, Flags, Settings};

use crate::{
    client::base_url,
    output::{Format, Table, note},
    problem::{Exit, Failure},
};
use clap::Subcommand;
use serde_json::{Value, json};
use settings::{Context, find};

/// Shown under `stockctl context`.
pub const HELP: &str = "\
What is asked is decided by the first of these that is there:
  1. --endpoints
  2. --context
  3. STOCKROOM_ENDPOINTS
  4. STOCKCTL_CONTEXT
  5. the context that `stockctl context use` chose
  6. http://127.0.0.1:8081, 8082 and 8083
`stockctl context show` says which it is, and why.

Contexts are kept in stockroom/stockctl.toml below $XDG_CONFIG_HOME (~/.config where that is not set); STOCKCTL_CONFIG
names another file:
  current = \"shop\"
  [contexts.shop]
  endpoints = [\"http://10.0.0.1:8081\", \"http://10.0.0.2:8081\", \"http://10.0.0.3:8081\"]
  timeout_ms = 2000

Examples:
  stockctl context set shop --endpoints 10.0.0.1:8081,10.0.0.2:8081,10.0.0.3:8081
  stockctl context use shop
  stockctl --context test status";

/// `stockctl context ...`
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// All contexts
    List,
    /// Use a context from now on
    Use {
        /// Its name
        name: String,
    },
    /// The settings of a context, or those in force and where they came from
    Show {
        /// Its name
        name: Option<String>,
    },
    /// Make or change a context, by --endpoints and --timeout-ms
    Set {
        /// Its name: letters, digits, `.`, `-` and `_`
        name: String,
    },
    /// Forget a context
    Delete {
        /// Its name
        name: String,
    },
}

/// `stockctl context`
///
/// # Errors
/// There is no such context, or the file cannot be read or written.
pub fn run(
    command: &ContextCommand,
    flags: &Flags,
    environment: &Environment,
    format: Format,
) -> Result<Exit, Failure> {
    match command {
        ContextCommand::List => list(environment, format)?,
        ContextCommand::Use { name } => {
            let mut file = environment.load()?;
            find(&file, name)?;
            file.current = Some(name.clone());
            environment.store(&file)?;
            format.print(&json!({ "current": name }), "", || format!("using {name} from now on\n"));
        }
        ContextCommand::Show { name: None } => in_force(&Settings::resolve(flags, environment)?, format),
        ContextCommand::Show { name: Some(name) } => {
            let context = find(&environment.load()?, name)?;
            let value = as_json(name, &context, false);
            format.print(&value, "", || table(&[(name, &context, false)]));
        }
        ContextCommand::Set { name } => set(name, flags, environment, format)?,
        ContextCommand::Delete { name } => {
            let mut file = environment.load()?;
            find(&file, name)?;
            file.contexts.remove(name);
            file.current = file.current.filter(|current| current != name);
            environment.store(&file)?;
            format.print(&json!({ "deleted": name }), "", || format!("{name} is forgotten\n"));
        }
    }
    Ok(Exit::Ok)
}

fn list(environment: &Environment, format: Format) -> Result<(), Failure> {
    let file = environment.load()?;
    let is_current = |name: &String| file.current.as_ref() == Some(name);
    let rows: Vec<(&str, &Context, bool)> =
        file.contexts.iter().map(|(name, context)| (name.as_str(), context, is_current(name))).collect();
    let contexts: Vec<Value> =
        rows.iter().map(|(name, context, current)| as_json(name, context, *current)).collect();
    let value = json!({ "file": environment.file, "contexts": contexts });
    format.print(&value, "contexts", || match rows.is_empty() {
        true => "no contexts: stockctl context set NAME --endpoints URLS\n".into(),
        false => table(&rows),
    });
    Ok(())
}

fn as_json(name: &str, context: &Context, current: bool) -> Value {
    json!({ "name": name, "current": current, "endpoints": context.endpoints, "timeout_ms": context.timeout_ms })
}

fn table(rows: &[(&str, &Context, bool)]) -> String {
    let mut table = Table::new(&["", "NAME", ">TIMEOUT MS", "ENDPOINTS"]);
    for (name, context, current) in rows {
        let timeout = context.timeout_ms.map_or("-".into(), |ms| ms.to_string());
        let mark = if *current { "*" } else { "" };
        table.row(vec![mark.into(), (*name).into(), timeout, context.endpoints.join(", ")]);
    }
    table.render()
}

fn in_force(settings: &Settings, format: Format) {
    let value = serde_json::to_value(settings).expect("strings and numbers always print");
    format.print(&value, "", || {
        let Settings { endpoints, timeout_ms, endpoints_from, timeout_from, .. } = settings;
        let endpoints = endpoints.join(", ");
        format!("endpoints   {endpoints}  ({endpoints_from})\ntimeout ms  {timeout_ms}  ({timeout_from})\n")
    });
}

fn set(name: &str, flags: &Flags, environment: &Environment, format: Format) -> Result<(), Failure> {
    well_named(name)?;
    let mut file = environment.load()?;
    let before = file.contexts.get(name).cloned();
    let endpoints = match (&flags.endpoints, &before) {
        (Some(endpoints), _) => endpoints.iter().map(|text| base_url(text)).collect::<Result<Vec<_>, _>>()?,
        (None, Some(before)) => before.endpoints.clone(),
        (None, None) => {
            let detail = format!("{name} is new: name its nodes");
            return Err(Failure::local(Exit::Usage, "usage", "No endpoint", detail)
                .step(format!("stockctl context set {name} --endpoints http://HOST:8081,...")));
        }
    };
    let timeout_ms = flags.timeout_ms.or(before.and_then(|before| before.timeout_ms));
    let context = Context { endpoints, timeout_ms };
    file.contexts.insert(name.to_owned(), context.clone());
    environment.store(&file)?;
    let current = file.current.as_deref() == Some(name);
    format.print(&as_json(name, &context, current), "", || table(&[(name, &context, current)]));
    if !current {
        note(&format!("to use it from now on: stockctl context use {name}"));
    }
    Ok(())
}

fn well_named(name: &str) -> Result<(), Failure> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits {
        return Ok(());
    }
    let detail = format!("{name:?}: 1 to 64 letters, digits, `.`, `-` and `_`");
    Err(Failure::local(Exit::Usage, "usage", "Not a name for a context", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_typed_in_any_shell() {
        for name in ["", "a b", "a/b", &"x".repeat(65)] {
            assert!(well_named(name).is_err(), "{name:?}");
        }
        assert!(well_named("shop-1.test_A").is_ok());
    }
}
