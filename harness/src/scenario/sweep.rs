//! `[matrix]` and `[[exclude]]`: dotted keys, their values, and the cases they make.

use super::problem::{Problem, dotted, split};
use toml::{Table, Value};

/// Most keys a matrix may sweep.
const AXES_MAX: usize = 16;
/// Most values one key may take.
const VALUES_MAX: usize = 256;
/// Longest text that a case's name holds whole, and about as many characters of a longer one, both without line breaks.
const TEXT_MAX: (usize, usize) = (40, 28);
/// Most cases a scenario may expand to.
pub(super) const CASES_MAX: usize = 1000;

/// One swept key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// The dotted key in the scenario: `engine.threads`.
    pub(super) path: Vec<String>,
    /// Where it stands in the file, below `matrix`; a quoted key is one part.
    pub(super) written: Vec<String>,
    /// Its values, at least one.
    pub(super) values: Vec<Value>,
}

impl Axis {
    /// A value as names of cases have it: of a long text the first words, and its number where another begins alike.
    pub(super) fn shown(&self, at: usize) -> String {
        let short = shortened(&self.values[at]);
        match self.values.iter().filter(|v| shortened(v) == short).count() {
            1 => short,
            _ => format!("{short} ({})", at + 1),
        }
    }
}

/// A value in few characters and one line.
fn shortened(value: &Value) -> String {
    let Some(text) = value.as_str() else {
        return value.to_string();
    };
    let (whole, part) = TEXT_MAX;
    let is_long = text.chars().count() > whole && text.contains(char::is_whitespace);
    if !is_long && !text.contains(char::is_control) {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.peek() {
        let word: String = word.chars().take(part).collect();
        let longer = short.chars().count() + 1 + word.chars().count();
        if !short.is_empty() && longer > part {
            break;
        }
        short += if short.is_empty() { "" } else { " " };
        short += &word;
        words.next();
    }
    match words.next() {
        Some(_) => short + "…",
        None => short,
    }
}

/// One case: the value of each axis, by index.
pub(super) type Point = Vec<usize>;

/// The axes of a matrix, in the order of the file. Both `engine.threads = [..]` and `"engine.threads" = [..]` are
/// the key `engine.threads`.
pub(super) fn axes(matrix: &Table) -> Result<Vec<Axis>, Problem> {
    let mut axes: Vec<Axis> = Vec::new();
    for (written, value) in leaves(matrix, &[]) {
        let path = split(&dotted(&written));
        let at = ["matrix"].map(str::to_owned).into_iter();
        let problem = |what: String| Problem {
            path: at.clone().chain(written.clone()).collect(),
            at_key: false,
            what,
            help: None,
        };
        let key = dotted(&path);
        let Value::Array(values) = value else {
            let found = value.type_str();
            let what = format!("\"{key}\": expected an array of values to sweep, found {found}");
            return Err(problem(what).help(format!("write {key} = [{value}]")));
        };
        if values.is_empty() || values.len() > VALUES_MAX {
            let what = format!(
                "\"{key}\": expected 1 to {VALUES_MAX} values, found {}",
                values.len()
            );
            return Err(problem(what));
        }
        if let Some(at) = (1..values.len()).find(|&i| values[..i].contains(&values[i])) {
            return Err(problem(format!(
                "\"{key}\" takes the value {} twice",
                values[at]
            )));
        }
        if axes.iter().any(|axis| axis.path == path) {
            return Err(problem(format!("\"{key}\" is swept twice")));
        }
        axes.push(Axis {
            path,
            written,
            values: values.clone(),
        });
    }
    if axes.len() > AXES_MAX {
        let what = format!(
            "the matrix sweeps {} keys, at most {AXES_MAX} are possible",
            axes.len()
        );
        return Err(Problem::new("matrix", what));
    }
    Ok(axes)
}

/// All entries of nested tables that are not tables themselves, with the keys that lead to them.
pub(super) fn leaves<'a>(table: &'a Table, at: &[String]) -> Vec<(Vec<String>, &'a Value)> {
    let mut out = Vec::new();
    for (key, value) in table {
        let mut path = at.to_vec();
        path.push(key.clone());
        match value {
            Value::Table(inner) => out.extend(leaves(inner, &path)),
            _ => out.push((path, value)),
        }
    }
    out
}

/// Every point of the matrix that is not excluded, the last axis running fastest; with `one_at_a_time` only those where
/// at most one key departs from its first value.
pub(super) fn points(
    axes: &[Axis],
    exclude: &[Table],
    one_at_a_time: bool,
) -> Result<Vec<Point>, Problem> {
    let all = if one_at_a_time {
        departures(axes)
    } else {
        product(axes)?
    };
    let rules = exclude
        .iter()
        .enumerate()
        .map(|(i, entry)| rule(axes, i, entry));
    let rules = rules.collect::<Result<Vec<_>, _>>()?;
    let kept: Vec<Point> = all
        .into_iter()
        .filter(|p| !rules.iter().any(|rule| matches(rule, p)))
        .collect();
    match kept.is_empty() {
        true => {
            Err(Problem::new("exclude", "[[exclude]] leaves no case over").help("remove an entry"))
        }
        false => Ok(kept),
    }
}

/// The first value of every key, then every other value of each key beside the first ones of the others.
fn departures(axes: &[Axis]) -> Vec<Point> {
    let base = vec![0; axes.len()];
    let one = |axis: usize, value: usize| {
        let mut point = base.clone();
        point[axis] = value;
        point
    };
    let others = |i: usize| (1..axes[i].values.len()).map(move |value| (i, value));
    let departures = (0..axes.len()).flat_map(others);
    std::iter::once(base.clone())
        .chain(departures.map(|(i, value)| one(i, value)))
        .collect()
}

/// Every combination of values.
fn product(axes: &[Axis]) -> Result<Vec<Point>, Problem> {
    let lengths = axes.iter().map(|axis| axis.values.len());
    let count = lengths.clone().try_fold(1usize, usize::checked_mul);
    let count = count.filter(|&n| n <= CASES_MAX).ok_or_else(|| {
        let sizes: Vec<String> = lengths.clone().map(|n| n.to_string()).collect();
        let what = format!(
            "the matrix has {} cases, at most {CASES_MAX} are possible",
            sizes.join(" x ")
        );
        Problem::new("matrix", what).help("sweep fewer keys at once, or split the scenario")
    })?;
    Ok((0..count).map(|index| point(axes, index)).collect())
}

/// The point with a running number.
fn point(axes: &[Axis], mut index: usize) -> Point {
    let mut point = vec![0; axes.len()];
    for (slot, axis) in point.iter_mut().zip(axes).rev() {
        *slot = index % axis.values.len();
        index /= axis.values.len();
    }
    point
}

/// Axis and value index pairs that must all match for a point to be left out.
type Rule = Vec<(usize, usize)>;

/// Whether a rule leaves `point` out.
fn matches(rule: &Rule, point: &Point) -> bool {
    rule.iter().all(|&(axis, value)| point[axis] == value)
}

/// Reads the `number`-th `[[exclude]]`.
fn rule(axes: &[Axis], number: usize, entry: &Table) -> Result<Rule, Problem> {
    let problem = |what: String| Problem::new(&format!("exclude.{number}"), what);
    let found = leaves(entry, &[]);
    if found.is_empty() {
        return Err(problem("[[exclude]] needs at least one key".into()));
    }
    let mut rule = Rule::new();
    for (written, value) in found {
        let key = dotted(&written);
        let Some(axis) = axes.iter().position(|axis| dotted(&axis.path) == key) else {
            let names: Vec<String> = axes.iter().map(|axis| dotted(&axis.path)).collect();
            let what = format!("[[exclude]] names \"{key}\", which [matrix] does not sweep");
            return Err(problem(what).help(format!("swept: {}", names.join(", "))));
        };
        let Some(at) = axes[axis].values.iter().position(|v| v == value) else {
            let what =
                format!("[[exclude]] names \"{key}\" = {value}, which [matrix] does not list");
            return Err(problem(what));
        };
        rule.push((axis, at));
    }
    Ok(rule)
}

/// Sets a dotted key, making sections as needed.
pub(super) fn set(table: &mut Table, path: &[String], value: Value) -> Result<(), Problem> {
    let Some((last, sections)) = path.split_last() else {
        return Err(Problem::new(
            "",
            "expected a dotted key such as engine.threads",
        ));
    };
    let mut at = table;
    for section in sections {
        let entry = at.entry(section.clone());
        let next = entry.or_insert_with(|| Value::Table(Table::new()));
        at = next.as_table_mut().ok_or_else(|| {
            let what = format!(
                "\"{section}\" in \"{}\" is a value, not a section",
                dotted(path)
            );
            Problem::new(&dotted(path), what)
        })?;
    }
    at.insert(last.clone(), value);
    Ok(())
}
