//! Drafters that find what comes next in the text so far.

use super::{Draft, Drafter};
use crate::error::Result;
use crate::session::Session;
use std::collections::HashMap;

/// Proposes what followed the last tokens where they last stood before (Saxena 2023, prompt lookup decoding): of the
/// longest ending of at most `longest` and at least `shortest` tokens that occurs earlier, the most recent occurrence.
#[derive(Debug, Clone)]
pub struct PromptLookup {
    shortest: usize,
    longest: usize,
}

impl PromptLookup {
    /// With endings of `shortest` to `longest` tokens.
    pub fn new(shortest: usize, longest: usize) -> PromptLookup {
        PromptLookup { shortest, longest }
    }

    /// What followed the ending of `context`; nothing where it does not stand earlier.
    pub(super) fn find<'c>(&self, context: &'c [u32]) -> &'c [u32] {
        let longest = self.longest.min(context.len().saturating_sub(1));
        let found = (self.shortest..=longest).rev().find_map(|len| {
            let ending = &context[context.len() - len..];
            let mut before = context[..context.len() - 1].windows(len);
            before.rposition(|w| w == ending).map(|at| at + len)
        });
        found.map_or(&[], |end| &context[end..])
    }
}

/// Proposes the first tokens of `next`, at most `max`.
fn copy(next: &[u32], max: usize, draft: &mut Draft) {
    next.iter()
        .take(max)
        .for_each(|&token| draft.push_certain(token));
}

impl Drafter for PromptLookup {
    fn propose(
        &mut self,
        _target: &mut Session<'_>,
        context: &[u32],
        max: usize,
        draft: &mut Draft,
    ) -> Result<()> {
        copy(self.find(context), max, draft);
        Ok(())
    }
}

/// A state of [`Suffixes`]: all strings that end at the same places of the text.
#[derive(Debug, Clone, Default)]
struct State {
    /// Length of the longest of them.
    len: usize,
    /// The state of the longest ending that stands at more places.
    link: Option<usize>,
    next: HashMap<u32, usize>,
    /// Behind the first place where they end.
    end: usize,
}

/// Proposes what followed, in its first place, the longest ending of the text that stands earlier in it, found with a suffix
/// automaton (Blumer et al. 1985; its use for drafts: Hu et al. 2024, SAM decoding). A token costs constant time on average.
#[derive(Debug, Clone)]
pub struct Suffixes {
    shortest: usize,
    states: Vec<State>,
    /// The state of the whole text.
    last: usize,
    text: Vec<u32>,
    /// State and length of the longest ending that stands earlier.
    found: (usize, usize),
}

impl Suffixes {
    /// With endings of at least `shortest` tokens.
    pub fn new(shortest: usize) -> Suffixes {
        Suffixes {
            shortest,
            states: vec![State::default()],
            last: 0,
            text: Vec::new(),
            found: (0, 0),
        }
    }

    /// Follows the ending that stands earlier by one token, then adds the token to the text.
    fn push(&mut self, token: u32) {
        let (mut state, mut len) = self.found;
        while state != 0 && !self.states[state].next.contains_key(&token) {
            state = self.states[state].link.unwrap_or(0);
            len = self.states[state].len;
        }
        if let Some(&next) = self.states[state].next.get(&token) {
            (state, len) = (next, len + 1);
        }
        self.extend(token);
        // The state may have been split: the ending belongs to the part that holds its length.
        while let Some(link) = self.states[state].link
            && self.states[link].len >= len
        {
            state = link;
        }
        self.found = (state, len);
    }

    /// The construction, one token further.
    fn extend(&mut self, token: u32) {
        self.text.push(token);
        let new = self.states.len();
        self.states.push(State {
            len: self.text.len(),
            end: self.text.len(),
            ..State::default()
        });
        let mut at = Some(self.last);
        while let Some(state) = at
            && !self.states[state].next.contains_key(&token)
        {
            self.states[state].next.insert(token, new);
            at = self.states[state].link;
        }
        let link = match at {
            None => 0,
            Some(state) => self.split(state, token),
        };
        self.states[new].link = Some(link);
        self.last = new;
    }

    /// The state that `state` reaches by `token`, cut down to what follows from `state` by one token.
    fn split(&mut self, state: usize, token: u32) -> usize {
        let long = self.states[state].next[&token];
        if self.states[long].len == self.states[state].len + 1 {
            return long;
        }
        let short = self.states.len();
        let mut cut = self.states[long].clone();
        cut.len = self.states[state].len + 1;
        self.states.push(cut);
        self.states[long].link = Some(short);
        let mut at = Some(state);
        while let Some(state) = at
            && self.states[state].next.get(&token) == Some(&long)
        {
            self.states[state].next.insert(token, short);
            at = self.states[state].link;
        }
        short
    }

    /// Brings the text to `context`, anew where it lost its end.
    fn follow(&mut self, context: &[u32]) {
        if !context.starts_with(&self.text) {
            *self = Suffixes::new(self.shortest);
        }
        context[self.text.len()..]
            .iter()
            .for_each(|&token| self.push(token));
    }

    /// What followed the longest ending of `context` that stands earlier; nothing where none does.
    pub(super) fn find<'c>(&mut self, context: &'c [u32]) -> &'c [u32] {
        self.follow(context);
        let (state, len) = self.found;
        match len >= self.shortest.max(1) {
            true => &context[self.states[state].end..],
            false => &[],
        }
    }
}

impl Drafter for Suffixes {
    fn begin(&mut self, prompt: &[u32]) -> Result<()> {
        self.follow(prompt);
        Ok(())
    }

    fn propose(
        &mut self,
        _target: &mut Session<'_>,
        context: &[u32],
        max: usize,
        draft: &mut Draft,
    ) -> Result<()> {
        copy(self.find(context), max, draft);
        Ok(())
    }
}
