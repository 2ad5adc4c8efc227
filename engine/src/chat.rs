//! Conversations as prompts, by the template in the model file.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// Most bytes of a template.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Most steps a template may take; 64 bytes of text that it makes count as one more.
const MAX_STEPS: u64 = 2_000_000;
/// Deepest nesting of blocks and macros while a template runs.
const MAX_DEPTH: usize = 200;
/// Name of the one template.
const NAME: &str = "chat_template";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// A conversation to render.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// The messages so far.
    pub messages: &'a [Message],
    /// Ends the prompt with the opening of the assistant's answer.
    pub add_generation_prompt: bool,
    /// The time that the template sees, in seconds since 1970 in UTC.
    pub now_unix_s: i64,
}

/// A chat template: Jinja, with what Hugging Face's templates expect around it.
///
/// A template takes a bounded number of steps, with bounded nesting and memory, and reads no files and no environment.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template of `gguf`, whose tokenizer is `tokenizer`.
    ///
    /// # Errors
    /// [`Error::Model`] where the file has none; otherwise as [`ChatTemplate::new`].
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let source = gguf.str("tokenizer.chat_template")?.ok_or_else(|| {
            Error::Model(
                "the file has no \"tokenizer.chat_template\": use an instruction-tuned model, or a plain prompt".into(),
            )
        })?;
        let text = |id: Option<u32>| id.map_or(Ok(String::new()), |id| tokenizer.decode(&[id]));
        ChatTemplate::new(source, text(tokenizer.bos())?, text(tokenizer.eos())?)
    }

    /// A template from its source; `bos` and `eos` are the texts of those tokens.
    ///
    /// # Errors
    /// [`Error::Model`] where the source is too long or no template.
    pub fn new(source: &str, bos: String, eos: String) -> Result<ChatTemplate> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(Error::Model(format!(
                "the chat template has {} bytes, expected at most {MAX_TEMPLATE_BYTES}: is the file damaged?",
                source.len()
            )));
        }
        let mut environment = Environment::new();
        let unreadable = |error| {
            Error::Model(format!(
                "the chat template cannot be read: {}",
                explain(&error)
            ))
        };
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(unreadable)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_recursion_limit(MAX_DEPTH);
        environment.add_function("raise_exception", raise_exception);
        environment.add_test("iterable", |value: &Value| {
            !value.is_none() && value.try_iter().is_ok()
        });
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(unreadable)?;
        Ok(ChatTemplate {
            environment,
            bos,
            eos,
        })
    }

    /// The prompt for `chat`. It holds the texts of special tokens, BOS included where the template asks for it.
    ///
    /// # Errors
    /// [`Error::Model`] where the template fails, refuses the messages or runs too long.
    pub fn render(&self, chat: Chat) -> Result<String> {
        let fail = |error: &minijinja::Error| {
            Error::Model(format!("the chat template failed: {}", explain(error)))
        };
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| fail(&error))?;
        let now = chat.now_unix_s;
        let messages: Vec<Value> = chat
            .messages
            .iter()
            .map(|m| Value::from_pairs([("role", &m.role), ("content", &m.content)]))
            .collect();
        let context = context! {
            messages => messages,
            add_generation_prompt => chat.add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => (),
            documents => (),
            strftime_now => Value::from_function(move |format: &str| strftime(now, format)),
        };
        template.render(context).map_err(|error| fail(&error))
    }

    /// The tokens of the prompt for `chat`.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn encode(&self, tokenizer: &Tokenizer, chat: Chat) -> Result<Vec<u32>> {
        // The template writes BOS itself where the model wants it.
        let options = EncodeOptions {
            add_special: false,
            parse_special: true,
        };
        Ok(tokenizer.encode(&self.render(chat)?, options))
    }
}

/// `source` with `{% generation %}` blocks, which mark the assistant's words for training, as blocks that always run.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for (at, part) in source.split("{%").enumerate() {
        if at > 0 {
            out.push_str("{%");
        }
        let tag = part.split("%}").next().unwrap_or(part);
        match tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => out.push_str(&part.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&part.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(part),
        }
    }
    out
}

fn raise_exception(message: &str) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(
        ErrorKind::InvalidOperation,
        message.to_owned(),
    ))
}

fn strftime(now_unix_s: i64, format: &str) -> std::result::Result<String, minijinja::Error> {
    let fail =
        |error: jiff::Error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string());
    let now = jiff::Timestamp::from_second(now_unix_s).map_err(fail)?;
    jiff::fmt::strtime::format(format, now).map_err(fail)
}

/// One line: what happened, in which line, and why.
fn explain(error: &minijinja::Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => {
            format!("it takes more than {MAX_STEPS} steps or 64 bytes for each")
        }
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(", in line {line}"));
    }
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_2024_02_29: i64 = 1_709_208_000;

    fn message(role: &str, content: &str) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }

    fn render(source: &str, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = ChatTemplate::new(source, "<s>".into(), "</s>".into())?;
        template.render(Chat {
            messages,
            add_generation_prompt,
            now_unix_s: NOON_2024_02_29,
        })
    }

    #[test]
    fn conversations_become_prompts() {
        let chat_ml = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}\
            {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        let messages = [
            message("user", "Hi <b>&</b>"),
            message("assistant", "Hello"),
        ];
        let expect =
            "<|im_start|>user\nHi <b>&</b><|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n";
        assert_eq!(render(chat_ml, &messages, false).unwrap(), expect);
        assert_eq!(
            render(chat_ml, &messages, true).unwrap(),
            format!("{expect}<|im_start|>assistant\n")
        );
        assert_eq!(
            render(chat_ml, &[], true).unwrap(),
            "<|im_start|>assistant\n"
        );
    }

    #[test]
    fn templates_find_what_they_expect() {
        let messages = [message("user", " Hi, you ")];
        let check = |source: &str, expect: &str| {
            assert_eq!(
                render(source, &messages, false).unwrap(),
                expect,
                "{source}"
            );
        };
        check(
            "{{ bos_token }}{{ messages[0].content | trim }}{{ eos_token }}",
            "<s>Hi, you</s>",
        );
        check(
            "{{ messages[0]['content'].strip().split(',')[0].upper() }}",
            "HI",
        );
        check(
            "{{ messages[0].get('name', 'none') }} {{ messages[-1].role.startswith('us') }}",
            "none True",
        );
        check(
            "{% if tools is not none and tools %}x{% else %}no tools{% endif %}",
            "no tools",
        );
        check(
            "{% if undefined_thing %}x{% endif %}{{ undefined_thing }}",
            "",
        );
        check("{{ strftime_now('%d %b %Y') }}", "29 Feb 2024");
        check(
            "{% if tools is iterable and tools | length > 0 %}x{% endif %}",
            "",
        );
        check(
            "a {%- generation -%} b {%- endgeneration %} generation",
            "ab generation",
        );
        check("  {% if true %}\n  a\n  {% endif %}\nb", "  a\nb");
        check(
            "{% set ns = namespace(n=0) %}{% for i in range(4) %}{% if i == 2 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "1",
        );
        check("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}", "[1]");
        check(
            "{{ messages[0]['missing'] }}|{{ 'a' if messages[0].missing is defined }}",
            "|",
        );
    }

    #[test]
    fn failures_say_what_and_where() {
        let check = |source: &str, expect: &str| {
            let error = render(source, &[message("user", "x")], false)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expect), "{error}");
            assert!(!error.contains('\n'), "{error}");
        };
        check(
            "a\n{% for %}",
            "model: the chat template cannot be read: unexpected",
        );
        check("a\n{% for %}", "in line 2");
        check(
            "{{ raise_exception('roles must alternate') }}",
            "the chat template failed: roles must alternate, in line 1",
        );
        check(
            "\n{{ messages[0].content.frobnicate() }}",
            "frobnicate, in line 2",
        );
        check("{{ messages | tojson }}", "tojson");
        check("{% include 'other' %}", "unknown statement include");
        check("{{ strftime_now('%!') }}", "failed");
    }

    #[test]
    fn hostile_templates_stop() {
        let check = |source: &str, expect: &str| {
            let error = render(source, &[], false).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        check(endless, "more than 2000000 steps");
        check(
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
            "recursion",
        );
        check(
            "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
            "more than 2000000 steps",
        );
        check("{{ 'x' * 99999999999999 }}", "64 bytes for each");
        let doubled = "{% set s = s ~ s %}".repeat(40);
        check(
            &format!("{{% set s = 'x' %}}{doubled}{{{{ s }}}}"),
            "64 bytes for each",
        );
        check(&"{% if x %}".repeat(10_000), "cannot be read");
        let nested = format!("{{{{ {}", "(".repeat(10_000));
        check(&nested, "cannot be read");
        check(
            &" ".repeat(MAX_TEMPLATE_BYTES + 1),
            "1048577 bytes, expected at most 1048576",
        );
    }
}
