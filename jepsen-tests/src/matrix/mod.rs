//! Many runs.
#[derive(Debug, Clone, clap::Args)]
pub struct MatrixArgs {}
pub async fn run(_args: &MatrixArgs) -> anyhow::Result<u8> {
    Ok(0)
}
