//! Conversations of several turns: what was read before stays in the cache, and only new tokens are read.

use crate::chat::{Chat, ChatTemplate, Message};
use crate::error::Result;
use crate::session::Session;
use crate::tokenizer::{Decoder, Tokenizer};

/// Role of the message that a conversation begins with.
const SYSTEM: &str = "system";

/// A conversation with the model of a session, which only it may change.
///
/// Every turn the template renders all messages anew, since it may treat earlier ones differently as others follow. Of the
/// resulting tokens those that the session already holds are not read again.
pub struct Conversation<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    messages: Vec<Message>,
    /// The session's tokens.
    read: Vec<u32>,
}

/// What reading a question took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Tokens of the whole conversation.
    pub tokens: usize,
    /// How many of them were read, because the session did not hold them.
    pub new: usize,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a token that ends it.
    Said,
    /// Because it was told to.
    Stopped,
}

impl<'a> Conversation<'a> {
    /// A conversation that begins with the message `system`, if there is one, and a session without tokens.
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: &'a ChatTemplate,
        system: Option<String>,
    ) -> Conversation<'a> {
        let system = system.map(|text| message(SYSTEM, text));
        Conversation {
            tokenizer,
            template,
            messages: system.into_iter().collect(),
            read: Vec::new(),
        }
    }

    /// The messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Begins anew: what was said is forgotten, the system's message is not.
    pub fn forget(&mut self) {
        self.messages.retain(|m| m.role == SYSTEM);
    }

    /// Adds what the user says and reads what is new in the conversation, up to the beginning of the answer. The template
    /// takes the time for `now_unix_s`.
    ///
    /// # Errors
    /// When the template refuses the messages, or the context is too small for them. The message is then not part of the
    /// conversation, which can go on with another one.
    pub fn ask(
        &mut self,
        session: &mut Session<'_>,
        text: String,
        now_unix_s: i64,
    ) -> Result<Asked> {
        self.messages.push(message("user", text));
        let asked = self.read(session, now_unix_s);
        if asked.is_err() {
            self.messages.pop();
        }
        asked
    }

    fn read(&mut self, session: &mut Session<'_>, now_unix_s: i64) -> Result<Asked> {
        let tokens = self.template.encode(
            self.tokenizer,
            Chat {
                messages: &self.messages,
                add_generation_prompt: true,
                now_unix_s,
            },
        )?;
        let held = self.read.iter().zip(&tokens).take_while(|(a, b)| a == b);
        // The last one is always read, for the logits behind it.
        let kept = held.count().min(tokens.len().saturating_sub(1));
        self.read.truncate(kept);
        session.truncate(kept);
        session.prefill(&tokens[kept..])?;
        let new = tokens.len() - kept;
        self.read = tokens;
        Ok(Asked {
            tokens: self.read.len(),
            new,
        })
    }

    /// Answers what was asked: `choose` takes each token from its logits, and `hear` gets the text as it comes and says
    /// whether to go on. What was said until the end is part of the conversation.
    ///
    /// # Errors
    /// Those of `choose` and of `hear`, and when the context is full.
    pub fn answer(
        &mut self,
        session: &mut Session<'_>,
        mut choose: impl FnMut(&mut [f32]) -> Result<u32>,
        mut hear: impl FnMut(&str) -> Result<bool>,
    ) -> Result<End> {
        let mut decoder = Decoder::new();
        let mut text = String::new();
        let mut say = |session: &mut Session<'_>| {
            loop {
                let token = session.sample(&mut choose)?;
                if self.tokenizer.is_eog(token) {
                    return Ok(End::Said);
                }
                let piece = match self.tokenizer.is_control(token) {
                    true => "",
                    false => decoder.push(self.tokenizer.token_bytes(token)),
                };
                text += piece;
                if !hear(piece)? {
                    return Ok(End::Stopped);
                }
                session.decode(token)?;
                self.read.push(token);
            }
        };
        let end = say(session);
        let rest = decoder.finish();
        text += rest;
        self.messages.push(message("assistant", text));
        hear(rest)?;
        end
    }
}

fn message(role: &str, content: String) -> Message {
    Message {
        role: role.into(),
        content,
    }
}
