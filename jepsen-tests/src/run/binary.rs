//! The server's binary: one that is named, or one built from this workspace.

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// The binary to run and the version it says it is.
///
/// # Errors
/// Where it cannot be built or does not run.
pub async fn find(named: Option<&Path>) -> anyhow::Result<(PathBuf, String)> {
    let path = match named {
        Some(path) => {
            path.canonicalize().with_context(|| format!("--bin {} is not there", path.display()))?
        }
        None => build(profile()?.as_str(), &[]).await?,
    };
    let output = Command::new(&path).arg("--version").output().await;
    let output = output.with_context(|| format!("{} cannot be run", path.display()))?;
    ensure!(output.status.success(), "{} --version failed: {}", path.display(), output.status);
    Ok((path, String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

/// The profile that the harness itself was built with.
fn profile() -> anyhow::Result<String> {
    let exe = std::env::current_exe().context("where this program lies is not known")?;
    let name = exe.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    Ok(if name == "debug" { "dev".to_owned() } else { name.into_owned() })
}

/// Builds `stockroom` from this workspace and says so.
///
/// # Errors
/// Where cargo fails; its own words are on standard error.
pub async fn build(profile: &str, more: &[&str]) -> anyhow::Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace is one up")?;
    if !workspace.join("Cargo.toml").exists() {
        bail!("{} is not there any more; name the server with --bin PATH", workspace.display());
    }
    println!("building stockroom (cargo build --profile {profile} -p stockroom {})", more.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace)
        .args([
            "build",
            "--locked",
            "--profile",
            profile,
            "-p",
            "stockroom",
            "--message-format=json-render-diagnostics",
        ])
        .args(more)
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("cargo cannot be run; name the server with --bin PATH")?;
    ensure!(output.status.success(), "stockroom could not be built, see above");
    let text = String::from_utf8_lossy(&output.stdout);
    executable(&text).context("cargo built no binary `stockroom`; name the server with --bin PATH")
}

/// Where cargo put the binary, from what it says while it builds.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_server = messages.filter(|message| message["target"]["name"] == "stockroom");
    of_server.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?))).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_where_cargo_says() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"stockroom-shop"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"stockroom"},"executable":"/t/release/stockroom"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executable(messages), Some(PathBuf::from("/t/release/stockroom")));
        assert_eq!(executable("{}"), None);
    }
}
