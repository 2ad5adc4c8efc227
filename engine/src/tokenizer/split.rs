//! Pre-tokenizer rules: how a text is cut into the words that merges never cross.
//!
//! A pre-tokenizer is a list of passes. A pass goes through each part that the passes before it have left, tries its
//! rules in order at each position and cuts at the ends of the first rule that matches; what no rule matches stays
//! together. Every rule looks at a character a bounded number of times, so that the cutting is linear in the text.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// A character with what the rules ask about it.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    ch: char,
    class: u8,
    len: u8,
}

/// A set of characters.
pub(super) type Set = fn(Unit) -> bool;

const LETTER: u8 = 1;
const NUMBER: u8 = 1 << 1;
const MARK: u8 = 1 << 2;
const PUNCTUATION: u8 = 1 << 3;
const SYMBOL: u8 = 1 << 4;
const SPACE: u8 = 1 << 5;

/// What every white-space character outside ASCII counts as: white space that is neither a blank nor a line end.
const OTHER_SPACE: char = '\u{B}';

impl Unit {
    fn new(ch: char) -> Unit {
        let len = ch.len_utf8() as u8;
        if ch.is_whitespace() {
            let ch = if ch.is_ascii() { ch } else { OTHER_SPACE };
            return Unit {
                ch,
                class: SPACE,
                len,
            };
        }
        let class = match ch {
            'a'..='z' | 'A'..='Z' => LETTER,
            '0'..='9' => NUMBER,
            _ => match ch.general_category_group() {
                GeneralCategoryGroup::Letter => LETTER,
                GeneralCategoryGroup::Number => NUMBER,
                GeneralCategoryGroup::Mark => MARK,
                GeneralCategoryGroup::Punctuation => PUNCTUATION,
                GeneralCategoryGroup::Symbol => SYMBOL,
                GeneralCategoryGroup::Separator | GeneralCategoryGroup::Other => 0,
            },
        };
        Unit { ch, class, len }
    }

    fn is(self, classes: u8) -> bool {
        self.class & classes != 0
    }
}

/// One alternative of a pass.
pub(super) enum Rule {
    /// An apostrophe and `s`, `t`, `m`, `d`, `re`, `ve` or `ll`; capitals too where `any_case`.
    Contraction { any_case: bool },
    /// A run of characters.
    Run(Run),
    /// A word of capitals, then small letters, with an optional lead; letters without case are both. A contraction may
    /// end it where `contraction`.
    CasedWord { contraction: bool },
    /// White space up to and with its last line end.
    LineEnds,
    /// White space up to the blank that belongs to the next word, or to the end.
    SpacesBeforeWord,
    /// White space.
    Spaces,
    /// White space that reaches the end.
    SpacesAtEnd,
}

/// One pass over the parts of a text.
pub(super) enum Pass {
    /// The first rule that matches cuts; what no rule matches stays together.
    Rules(&'static [Rule]),
    /// Cuts before every digit that a multiple of three digits begins with.
    DigitTriples,
}

/// An optional or required lead, `min..=max` characters of a set, and a tail.
pub(super) struct Run {
    pub(super) lead: Lead,
    pub(super) body: Set,
    pub(super) min: usize,
    pub(super) max: usize,
    pub(super) tail: Set,
}

/// The character before a run.
pub(super) enum Lead {
    None,
    Optional(Set),
    Required(Set),
}

impl Rule {
    /// Length of the match at `at` in `part`; `None` where there is none.
    fn match_len(&self, part: &[Unit], at: usize) -> Option<usize> {
        let rest = &part[at..];
        match self {
            Rule::Contraction { any_case } => contraction(rest, *any_case),
            Rule::Run(run) => run.match_len(rest),
            Rule::CasedWord { contraction } => cased_word(rest, *contraction),
            Rule::LineEnds => {
                let spaces = count(rest, white_space);
                let last = rest[..spaces].iter().rposition(|&u| line_end(u))?;
                Some(last + 1)
            }
            Rule::SpacesBeforeWord => match count(rest, white_space) {
                spaces if spaces == rest.len() => Some(spaces),
                spaces => spaces.checked_sub(1).filter(|&n| n > 0),
            },
            Rule::Spaces => Some(count(rest, white_space)).filter(|&n| n > 0),
            Rule::SpacesAtEnd => {
                let inside_run = at > 0 && white_space(part[at - 1]);
                (!inside_run && count(rest, white_space) == rest.len()).then_some(rest.len())
            }
        }
    }
}

impl Run {
    fn match_len(&self, rest: &[Unit]) -> Option<usize> {
        match self.lead {
            Lead::None => self.body_len(rest, 0),
            Lead::Required(lead) => lead(*rest.first()?)
                .then(|| self.body_len(rest, 1))
                .flatten(),
            Lead::Optional(lead) => lead(*rest.first()?)
                .then(|| self.body_len(rest, 1))
                .flatten()
                .or_else(|| self.body_len(rest, 0)),
        }
    }

    fn body_len(&self, rest: &[Unit], start: usize) -> Option<usize> {
        let end = rest.len().min(start.saturating_add(self.max));
        let body = count(&rest[start..end], self.body);
        if body < self.min {
            return None;
        }
        let end = start + body;
        Some(end + count(&rest[end..], self.tail))
    }
}

/// How many units at the start of `units` are in `set`.
fn count(units: &[Unit], set: Set) -> usize {
    units.iter().take_while(|&&unit| set(unit)).count()
}

fn contraction(rest: &[Unit], any_case: bool) -> Option<usize> {
    let at = |n: usize| {
        let ch = rest.get(n).map_or('\0', |u| u.ch);
        if any_case {
            ch.to_ascii_lowercase()
        } else {
            ch
        }
    };
    match (at(0), at(1), at(2)) {
        ('\'', 's' | 't' | 'm' | 'd', _) => Some(2),
        ('\'', 'r' | 'v', 'e') | ('\'', 'l', 'l') => Some(3),
        _ => None,
    }
}

/// The first of two alternatives wins where both match: capitals then at least one small letter; at least one capital
/// then small letters. Letters without case are given back to the small ones, as a regular expression would.
fn cased_word(rest: &[Unit], with_contraction: bool) -> Option<usize> {
    let start = usize::from(word_lead(*rest.first()?));
    let word = &rest[start..];
    let capitals = count(word, capital);
    let small = count(&word[capitals..], small_letter);
    let len = if small > 0 {
        capitals + small
    } else {
        let uncased = word[..capitals].iter().rposition(|&u| small_letter(u));
        uncased.map_or(capitals, |last| last + 1)
    };
    if len == 0 {
        return None;
    }
    let end = start + len;
    let suffix = contraction(&rest[end..], true).filter(|_| with_contraction);
    Some(end + suffix.unwrap_or(0))
}

/// Cuts `part` before the digits that [`Pass::DigitTriples`] means; appends the lengths of the pieces to `out`.
fn cut_digit_triples(part: &[Unit], out: &mut Vec<usize>) {
    let (mut ahead, mut end) = (0usize, part.len());
    let first = out.len();
    for at in (0..part.len()).rev() {
        ahead = if digit(part[at]) { ahead + 1 } else { 0 };
        if at == 0 || (ahead > 0 && ahead.is_multiple_of(3)) {
            out.push(end - at);
            end = at;
        }
    }
    out[first..].reverse();
}

/// Cuts `part` by the rules of one pass; appends the lengths of the pieces to `out`.
fn cut(part: &[Unit], rules: &[Rule], out: &mut Vec<usize>) {
    let (mut at, mut unmatched) = (0, 0);
    while at < part.len() {
        match rules.iter().find_map(|rule| rule.match_len(part, at)) {
            Some(len) => {
                if unmatched > 0 {
                    out.push(unmatched);
                }
                out.push(len);
                (at, unmatched) = (at + len, 0);
            }
            None => (at, unmatched) = (at + 1, unmatched + 1),
        }
    }
    if unmatched > 0 {
        out.push(unmatched);
    }
}

/// Calls `word` with each word of `text`, in order; together they are `text`.
pub(super) fn words(text: &str, passes: &[Pass], mut word: impl FnMut(&str)) {
    let units: Vec<Unit> = text.chars().map(Unit::new).collect();
    let mut lens = vec![units.len()];
    let mut cuts = Vec::new();
    for pass in passes {
        cuts.clear();
        let mut at = 0;
        for &len in &lens {
            let part = &units[at..at + len];
            match pass {
                Pass::Rules(rules) => cut(part, rules, &mut cuts),
                Pass::DigitTriples => cut_digit_triples(part, &mut cuts),
            }
            at += len;
        }
        std::mem::swap(&mut lens, &mut cuts);
    }
    let (mut unit, mut start) = (0, 0);
    for len in lens {
        let bytes: usize = units[unit..unit + len]
            .iter()
            .map(|u| usize::from(u.len))
            .sum();
        word(&text[start..start + bytes]);
        (unit, start) = (unit + len, start + bytes);
    }
}

pub(super) fn nothing(_: Unit) -> bool {
    false
}

pub(super) fn blank(u: Unit) -> bool {
    u.ch == ' '
}

pub(super) fn white_space(u: Unit) -> bool {
    u.is(SPACE)
}

pub(super) fn line_end(u: Unit) -> bool {
    matches!(u.ch, '\r' | '\n')
}

pub(super) fn line_end_or_slash(u: Unit) -> bool {
    matches!(u.ch, '\r' | '\n' | '/')
}

pub(super) fn line_feed(u: Unit) -> bool {
    u.ch == '\n'
}

pub(super) fn not_line_feed(u: Unit) -> bool {
    u.ch != '\n'
}

pub(super) fn letter(u: Unit) -> bool {
    u.is(LETTER)
}

pub(super) fn letter_or_mark(u: Unit) -> bool {
    u.is(LETTER | MARK)
}

pub(super) fn number(u: Unit) -> bool {
    u.is(NUMBER)
}

pub(super) fn digit(u: Unit) -> bool {
    u.ch.is_ascii_digit()
}

pub(super) fn ascii_letter(u: Unit) -> bool {
    u.ch.is_ascii_alphabetic()
}

pub(super) fn ascii_punctuation(u: Unit) -> bool {
    u.ch.is_ascii_punctuation()
}

pub(super) fn punctuation(u: Unit) -> bool {
    u.is(PUNCTUATION)
}

pub(super) fn punctuation_or_symbol(u: Unit) -> bool {
    u.is(PUNCTUATION | SYMBOL)
}

pub(super) fn other(u: Unit) -> bool {
    !u.is(SPACE | LETTER | NUMBER)
}

pub(super) fn other_in_line(u: Unit) -> bool {
    other(u) && !line_end(u)
}

pub(super) fn other_than_mark(u: Unit) -> bool {
    !u.is(SPACE | LETTER | MARK | NUMBER)
}

pub(super) fn word_lead(u: Unit) -> bool {
    !line_end(u) && !u.is(LETTER | NUMBER)
}

pub(super) fn word_lead_no_punctuation(u: Unit) -> bool {
    !line_end(u) && !u.is(LETTER | PUNCTUATION | SYMBOL)
}

fn capital(u: Unit) -> bool {
    letter(u) && !u.ch.is_ascii_lowercase()
}

fn small_letter(u: Unit) -> bool {
    letter(u) && !u.ch.is_ascii_uppercase()
}

/// Punctuation, and the ASCII symbols that the default pre-tokenizer puts with it.
pub(super) fn default_punctuation(u: Unit) -> bool {
    punctuation(u) || matches!(u.ch, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
}

pub(super) fn falcon_punctuation(u: Unit) -> bool {
    default_punctuation(u) || u.ch == '`'
}

pub(super) fn bloom_word(u: Unit) -> bool {
    !white_space(u)
        && !matches!(
            u.ch,
            '(' | '|' | '.' | ',' | '!' | '?' | '…' | '。' | '，' | '、' | '।' | '۔' | '،' | ')'
        )
}

pub(super) fn deepseek_cjk(u: Unit) -> bool {
    matches!(u.ch, '\u{800}'..='\u{9FA5}' | '\u{AC00}'..='\u{D7FF}')
}

pub(super) fn deepseek_v3_cjk(u: Unit) -> bool {
    matches!(u.ch, '\u{4E00}'..='\u{9FA5}' | '\u{3040}'..='\u{30FF}')
}

pub(super) fn deepseek_punctuation(u: Unit) -> bool {
    matches!(u.ch, '!'..='/' | ':'..='~' | '！'..='／' | '：'..='～' | '\u{2018}'..='\u{201F}' | '\u{3000}'..='\u{3002}')
}

pub(super) fn deepseek_letter(u: Unit) -> bool {
    let next = DEEPSEEK_LETTERS.partition_point(|&(first, _)| first <= u.ch);
    next > 0 && u.ch <= DEEPSEEK_LETTERS[next - 1].1
}

/// Letters with case as the `deepseek-llm` pre-tokenizer lists them, as ranges in order.
const DEEPSEEK_LETTERS: &[(char, char)] = &[
    ('\u{41}', '\u{5a}'),
    ('\u{61}', '\u{7a}'),
    ('\u{b5}', '\u{b5}'),
    ('\u{c0}', '\u{d6}'),
    ('\u{d8}', '\u{f6}'),
    ('\u{f8}', '\u{1ba}'),
    ('\u{1bc}', '\u{1bf}'),
    ('\u{1c4}', '\u{293}'),
    ('\u{295}', '\u{2af}'),
    ('\u{370}', '\u{373}'),
    ('\u{376}', '\u{376}'),
    ('\u{377}', '\u{377}'),
    ('\u{37b}', '\u{37d}'),
    ('\u{37f}', '\u{37f}'),
    ('\u{386}', '\u{386}'),
    ('\u{388}', '\u{38a}'),
    ('\u{38c}', '\u{38c}'),
    ('\u{38e}', '\u{3a1}'),
    ('\u{3a3}', '\u{3f5}'),
    ('\u{3f7}', '\u{481}'),
    ('\u{48a}', '\u{52f}'),
    ('\u{531}', '\u{556}'),
    ('\u{10a0}', '\u{10c5}'),
    ('\u{13a0}', '\u{13f5}'),
    ('\u{13f8}', '\u{13fd}'),
    ('\u{1c90}', '\u{1cba}'),
    ('\u{1cbd}', '\u{1cbf}'),
    ('\u{1d00}', '\u{1d2b}'),
    ('\u{1d6b}', '\u{1d77}'),
    ('\u{1d79}', '\u{1d9a}'),
    ('\u{1e00}', '\u{1f15}'),
    ('\u{1f18}', '\u{1f1d}'),
    ('\u{1f20}', '\u{1f45}'),
    ('\u{1f48}', '\u{1f4d}'),
    ('\u{1f50}', '\u{1f57}'),
    ('\u{1f59}', '\u{1f59}'),
    ('\u{1f5b}', '\u{1f5b}'),
    ('\u{1f5d}', '\u{1f5d}'),
    ('\u{1f5f}', '\u{1f7d}'),
    ('\u{1f80}', '\u{1fb4}'),
    ('\u{1fb6}', '\u{1fbc}'),
    ('\u{1fbe}', '\u{1fbe}'),
    ('\u{1fc2}', '\u{1fc4}'),
    ('\u{1fc6}', '\u{1fcc}'),
    ('\u{1fd0}', '\u{1fd3}'),
    ('\u{1fd6}', '\u{1fdb}'),
    ('\u{1fe0}', '\u{1fec}'),
    ('\u{1ff2}', '\u{1ff4}'),
    ('\u{1ff6}', '\u{1ffc}'),
    ('\u{2102}', '\u{2102}'),
    ('\u{2107}', '\u{2107}'),
    ('\u{210a}', '\u{2113}'),
    ('\u{2115}', '\u{2115}'),
    ('\u{2119}', '\u{211d}'),
    ('\u{2124}', '\u{2124}'),
    ('\u{2126}', '\u{2126}'),
    ('\u{2128}', '\u{2128}'),
    ('\u{212a}', '\u{212d}'),
    ('\u{212f}', '\u{2134}'),
    ('\u{2139}', '\u{2139}'),
    ('\u{213c}', '\u{213f}'),
    ('\u{2145}', '\u{2149}'),
    ('\u{214e}', '\u{214e}'),
    ('\u{2183}', '\u{2183}'),
    ('\u{2184}', '\u{2184}'),
    ('\u{2c00}', '\u{2c7b}'),
    ('\u{2c7e}', '\u{2ce4}'),
    ('\u{2ceb}', '\u{2cee}'),
    ('\u{2cf2}', '\u{2cf2}'),
    ('\u{2cf3}', '\u{2cf3}'),
    ('\u{a640}', '\u{a66d}'),
    ('\u{a680}', '\u{a69b}'),
    ('\u{a722}', '\u{a76f}'),
    ('\u{a771}', '\u{a787}'),
    ('\u{a78b}', '\u{a78e}'),
    ('\u{ab70}', '\u{abbf}'),
    ('\u{fb00}', '\u{fb06}'),
    ('\u{fb13}', '\u{fb17}'),
    ('\u{ff21}', '\u{ff3a}'),
    ('\u{ff41}', '\u{ff5a}'),
    ('\u{10400}', '\u{1044f}'),
    ('\u{104b0}', '\u{104d3}'),
    ('\u{104d8}', '\u{104fb}'),
    ('\u{10c80}', '\u{10cb2}'),
    ('\u{10cc0}', '\u{10cf2}'),
    ('\u{118a0}', '\u{118df}'),
    ('\u{1e900}', '\u{1e943}'),
];
