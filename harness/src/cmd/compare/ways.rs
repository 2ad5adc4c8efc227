//! What the engine is compared with: programs that are here, and the ways to run each.

use super::Args;
use crate::exit::Fail;
use crate::record::ReferenceKind;
use crate::reference::{self, Installation, Places, Tool};
use crate::repeat::Variant;
use crate::scenario::{FlashAttn, ReferenceSpec, Scenario};
use std::path::{Path, PathBuf};

/// Name of the program that writes a text, in records.
const TEXT: &str = "llama.cpp text";
/// llama.cpp's programs that give figures: its own benchmark first.
const TIMED: [ReferenceKind; 3] = [
    ReferenceKind::LlamaBench,
    ReferenceKind::LlamaCompletion,
    ReferenceKind::LlamaCli,
];

/// One way to run one program.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// Name of the runner in records.
    pub(super) name: String,
    /// What it is, with its version.
    pub(super) title: String,
    /// Which adapter it takes.
    pub(super) kind: ReferenceKind,
    /// Its file.
    pub(super) program: PathBuf,
    /// What it says under `--help`.
    pub(super) help: String,
    /// Options of llama.cpp.
    pub(super) variant: Variant,
    /// What the scenario says.
    pub(super) spec: Option<ReferenceSpec>,
    /// Whether it only writes a text that is compared, untimed.
    pub(super) is_text: bool,
}

/// All ways to compare with; none if the engine is compared with itself.
pub(super) fn find(args: &Args, scenario: &Scenario) -> anyhow::Result<Vec<Way>> {
    if args.itself {
        return Ok(vec![]);
    }
    let asked = args.llama_cpp || args.llama_cpp_dir.is_some();
    if !asked && scenario.references.is_empty() {
        return Err(Fail::usage(
            "name what to compare with: --llama-cpp, --itself, or [[reference]] sections in the scenario",
        ));
    }
    let mut found: Vec<(Option<PathBuf>, Installation)> = Vec::new();
    let mut ways = match asked {
        true => variants(&installation(args.llama_cpp_dir.clone(), &mut found)?)?,
        false => vec![],
    };
    let mut own = Vec::new();
    for spec in &scenario.references {
        own.push(match spec.kind {
            ReferenceKind::Command => command(spec),
            kind => {
                let dir = spec.dir.clone().or_else(|| args.llama_cpp_dir.clone());
                one(&installation(dir, &mut found)?, kind, spec)?
            }
        });
    }
    // What the scenario describes itself keeps its name, and is measured once.
    ways.retain(|way| !own.iter().any(|own| own.does_as(way)));
    ways.extend(own);
    if let Some((_, first)) = found.first() {
        ways.extend(text(first));
    }
    let taken = |(i, way): (usize, &Way)| ways[..i].iter().any(|other| other.name == way.name);
    match ways.iter().enumerate().find(|&way| taken(way)) {
        Some((_, way)) => Err(Fail::usage(format!(
            "\"{}\" is the name of a [[reference]] and of another way to run llama.cpp: give the [[reference]] another one",
            way.name
        ))),
        None => Ok(ways),
    }
}

impl Way {
    /// Whether the same program is run in the same way, under whatever name.
    fn does_as(&self, other: &Way) -> bool {
        let threads = |way: &Way| way.spec.as_ref().and_then(|spec| spec.threads);
        (self.kind, self.variant) == (other.kind, other.variant)
            && threads(self) == threads(other)
            && self.program.canonicalize().ok() == other.program.canonicalize().ok()
    }
}

/// llama.cpp in a folder, or wherever it is; looked for once.
fn installation(
    dir: Option<PathBuf>,
    found: &mut Vec<(Option<PathBuf>, Installation)>,
) -> anyhow::Result<Installation> {
    if let Some((_, known)) = found.iter().find(|(known, _)| *known == dir) {
        return Ok(known.clone());
    }
    let places = Places::new(dir.clone(), None)?;
    let new = reference::find(&places)?.ok_or_else(|| reference::missing(&places))?;
    found.push((dir, new.clone()));
    Ok(new)
}

/// llama.cpp with weights repacked and not, flash attention on and off. Builds that cannot be told about repacking do it
/// their way.
fn variants(installation: &Installation) -> anyhow::Result<Vec<Way>> {
    let tool = TIMED.iter().find_map(|&kind| installation.tool(kind));
    let tool = tool.ok_or_else(|| missing(installation, ReferenceKind::LlamaBench))?;
    let repack: &[Option<bool>] = match tool.help.contains("-repack") {
        true => &[Some(true), Some(false)],
        false => &[None],
    };
    let mut ways = Vec::new();
    for &repack in repack {
        for flash_attn in [FlashAttn::On, FlashAttn::Off] {
            let variant = Variant {
                repack,
                flash_attn: Some(flash_attn),
            };
            let name = format!("llama.cpp {}", words(variant, "fa"));
            let says = words(variant, "flash attention");
            ways.push(way(installation, tool, name, &says, variant));
        }
    }
    Ok(ways)
}

/// A variant in words.
fn words(variant: Variant, flash_attention: &str) -> String {
    let on = |on| if on { "on" } else { "off" };
    let repack = variant.repack.map(|r| format!("repack {}", on(r)));
    let flash = variant.flash_attn;
    let flash = flash.map(|f| format!("{flash_attention} {}", f.word(false)));
    let all: Vec<String> = repack.into_iter().chain(flash).collect();
    match all.is_empty() {
        true => "defaults".into(),
        false => all.join(", "),
    }
}

fn way(
    installation: &Installation,
    tool: &Tool,
    name: String,
    says: &str,
    variant: Variant,
) -> Way {
    let title = &installation.title;
    Way {
        name,
        title: match tool.kind {
            ReferenceKind::LlamaBench => format!("{title} ({says})"),
            kind => format!("{title} {} ({says})", program(kind)),
        },
        kind: tool.kind,
        program: tool.path.clone(),
        help: tool.help.clone(),
        variant,
        spec: None,
        is_text: false,
    }
}

/// The way a `[[reference]]` of llama.cpp describes.
fn one(
    installation: &Installation,
    kind: ReferenceKind,
    spec: &ReferenceSpec,
) -> anyhow::Result<Way> {
    let tool = installation.tool(kind);
    let tool = tool.ok_or_else(|| missing(installation, kind))?;
    let variant = Variant {
        repack: spec.repack,
        flash_attn: spec.flash_attn,
    };
    let mut says = words(variant, "flash attention");
    if let Some(threads) = spec.threads {
        says += &format!(", {}", crate::host::plural(threads, "thread"));
    }
    let mut way = way(installation, tool, spec.name.clone(), &says, variant);
    way.title = format!("{}: {}", spec.name, way.title);
    way.spec = Some(spec.clone());
    Ok(way)
}

/// The way a `[[reference]]` of kind `command` describes.
fn command(spec: &ReferenceSpec) -> Way {
    Way {
        name: spec.name.clone(),
        title: spec.name.clone(),
        kind: ReferenceKind::Command,
        program: spec.command.first().map(PathBuf::from).unwrap_or_default(),
        help: String::new(),
        variant: Variant::default(),
        spec: Some(spec.clone()),
        is_text: false,
    }
}

/// llama.cpp's program that writes a text and nothing else to stdout.
fn text(installation: &Installation) -> Option<Way> {
    let tool = installation.tool(ReferenceKind::LlamaCompletion)?;
    let says = "defaults";
    let mut text = way(installation, tool, TEXT.into(), says, Variant::default());
    text.is_text = true;
    Some(text)
}

fn missing(installation: &Installation, kind: ReferenceKind) -> anyhow::Error {
    let dir: &Path = &installation.dir;
    Fail::with(
        crate::exit::Exit::ReferenceMissing,
        format!(
            "no {} in \"{}\": name a folder that has it with --llama-cpp-dir, or build llama.cpp with `harness reference install`",
            program(kind),
            dir.display()
        ),
    )
}

/// Name of a program.
fn program(kind: ReferenceKind) -> &'static str {
    match kind {
        ReferenceKind::LlamaBench => "llama-bench",
        ReferenceKind::LlamaCompletion => "llama-completion",
        ReferenceKind::LlamaCli => "llama-cli",
        ReferenceKind::Command => "program",
    }
}
