//! `harness models`: the models of the catalogue: which there are, fetching them, and where they lie.

use crate::exit::Exit;
use crate::interrupt;
use crate::models::{ModelStore, catalogue};
use crate::scenario::ModelSpec;
use anyhow::bail;
use std::io::Write as _;
use std::path::PathBuf;

/// Lists, fetches and finds the models of the catalogue.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// Folder that models are kept in [default: HARNESS_MODELS, else the user's cache folder].
    #[arg(
        long,
        value_name = "DIR",
        env = "HARNESS_MODELS",
        hide_env = true,
        global = true
    )]
    models_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Says which models there are, their size, their licence, and whether they are here.
    List,
    /// Fetches models and checks them; prints their paths.
    Fetch {
        /// Names of the catalogue.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Prints the path of a model that has been fetched.
    Path {
        /// Name of the catalogue.
        name: String,
    },
}

/// Does what the command line asks for.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let store = ModelStore::new(args.models_dir.clone())?;
    let mut out = anstream::stdout();
    match &args.action {
        Action::List => write!(out, "{}", list(&store)?)?,
        Action::Fetch { names } => {
            interrupt::defer();
            for name in names {
                let record = store.ensure(&ModelSpec::Catalogue(name.clone()))?;
                writeln!(out, "{}", record.path)?;
            }
        }
        Action::Path { name } => {
            let found = store.find(&ModelSpec::Catalogue(name.clone()))?;
            if !found.present {
                bail!("model \"{name}\" is not here: fetch it with harness models fetch {name}");
            }
            writeln!(out, "{}", found.path.display())?;
        }
    }
    Ok(Exit::Ok)
}

/// A line for each model of the catalogue.
fn list(store: &ModelStore) -> anyhow::Result<String> {
    let mut text = String::new();
    for (name, entry) in catalogue::entries() {
        let found = store.find(&ModelSpec::Catalogue(name.clone()))?;
        let place = match found.present {
            true => found.path.display().to_string(),
            false => "not fetched".to_owned(),
        };
        let mb = entry.bytes as f64 / 1e6;
        text += &format!(
            "{name}  {}, {mb:.0} MB, {}: {place}\n",
            entry.description, entry.licence
        );
    }
    Ok(text)
}
