//! The pre-tokenizers by the names that GGUF files use.

use super::split::{self, Lead, Pass, Rule, Run, Set};
use crate::error::{Error, Result};

/// One way of cutting a text into words.
pub(super) struct Pre {
    /// The passes, in order.
    pub(super) passes: &'static [Pass],
    /// A word that is a token is taken whole, whatever the merges say.
    pub(super) whole_words: bool,
    /// Whether a text begins with BOS where the file says nothing about it.
    pub(super) add_bos: bool,
}

/// The pre-tokenizer `name`; `None` means a file that names none.
pub(super) fn find(name: Option<&str>) -> Result<&'static Pre> {
    let name = name.unwrap_or("default");
    match PRE.iter().find(|(names, _)| names.contains(&name)) {
        Some((_, pre)) => Ok(pre),
        None => Err(Error::Tokenizer(format!(
            "pre-tokenizer \"{name}\" is not known; known are {}: use a file with one of them",
            names().collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// All names of pre-tokenizers.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PRE.iter().flat_map(|(names, _)| names.iter().copied())
}

/// One name of each different pre-tokenizer.
#[cfg(test)]
pub(super) fn families() -> impl Iterator<Item = &'static str> {
    PRE.iter().map(|(names, _)| names[0])
}

const fn plain(passes: &'static [Pass]) -> Pre {
    Pre {
        passes,
        whole_words: false,
        add_bos: false,
    }
}

const PRE: &[(&[&str], Pre)] = &[
    (
        &["default"],
        plain(&[DEFAULT_PUNCTUATION, GPT_2, NUMBERS, THREE_DIGITS]),
    ),
    (
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        plain(&[GPT_2]),
    ),
    (
        &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        plain(&[EACH_NUMBER, GPT_2]),
    ),
    (
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        Pre {
            passes: &[LLAMA_3],
            whole_words: true,
            add_bos: true,
        },
    ),
    (&["dbrx", "smaug-bpe", "chatglm-bpe"], plain(&[LLAMA_3])),
    (
        &["glm4", "glm5"],
        Pre {
            passes: &[LLAMA_3],
            whole_words: true,
            add_bos: false,
        },
    ),
    (
        &["minicpm5"],
        Pre {
            passes: &[THREE_NUMBERS, LLAMA_3],
            whole_words: true,
            add_bos: false,
        },
    ),
    (
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
            "bailingmoe",
            "bailingmoe2",
            "llada-moe",
        ],
        plain(&[QWEN_2]),
    ),
    (&["laguna"], plain(&[LINES, QWEN_2])),
    (&["qwen35"], plain(&[QWEN_3_5])),
    (&["seed-coder"], plain(&[SEED_CODER])),
    (&["ufakzeka"], plain(&[UFAKZEKA])),
    (
        &["falcon"],
        plain(&[FALCON_PUNCTUATION, GPT_2, THREE_DIGITS]),
    ),
    (
        &["deepseek-llm"],
        plain(&[
            EACH_LINE_END,
            DEEPSEEK_LETTERS,
            DEEPSEEK_PUNCTUATION,
            SPACES_AT_END,
            DEEPSEEK_CJK,
            NUMBERS,
        ]),
    ),
    (
        &["deepseek-coder"],
        plain(&[
            EACH_LINE_END,
            SPACED_LETTERS,
            SPACED_PUNCTUATION,
            DEEPSEEK_CJK,
            EACH_NUMBER,
        ]),
    ),
    (
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        plain(&[THREE_NUMBERS, DEEPSEEK_V3_CJK, DEEPSEEK_V3]),
    ),
    (
        &["tekken"],
        Pre {
            passes: &[TEKKEN],
            whole_words: true,
            add_bos: true,
        },
    ),
    (
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        plain(&[GPT_4O]),
    ),
    (&["bloom", "poro-chat", "gpt3-finnish"], plain(&[BLOOM])),
    (&["viking"], plain(&[BLOOM, EACH_NUMBER])),
    (&["superbpe"], plain(&[NUMBERS, Pass::DigitTriples])),
];

const fn run(lead: Lead, body: Set, tail: Set) -> Rule {
    Rule::Run(Run {
        lead,
        body,
        min: 1,
        max: usize::MAX,
        tail,
    })
}

const fn few(body: Set, min: usize, max: usize) -> Rule {
    Rule::Run(Run {
        lead: Lead::None,
        body,
        min,
        max,
        tail: split::nothing,
    })
}

const BLANK: Lead = Lead::Optional(split::blank);
const SPACE: Lead = Lead::Optional(split::white_space);
const WORD: Rule = run(
    Lead::Optional(split::word_lead),
    split::letter,
    split::nothing,
);
const OTHERS: Rule = run(BLANK, split::other, split::line_end);
const OTHERS_AND_SLASHES: Rule = run(BLANK, split::other, split::line_end_or_slash);
const ONE_NUMBER: Rule = few(split::number, 1, 1);
const CONTRACTION: Rule = Rule::Contraction { any_case: true };

const GPT_2: Pass = Pass::Rules(&[
    Rule::Contraction { any_case: false },
    run(BLANK, split::letter, split::nothing),
    run(BLANK, split::number, split::nothing),
    run(BLANK, split::other, split::nothing),
    Rule::SpacesBeforeWord,
    Rule::Spaces,
]);
const LLAMA_3: Pass = Pass::Rules(&[
    CONTRACTION,
    WORD,
    few(split::number, 1, 3),
    OTHERS,
    Rule::LineEnds,
    Rule::SpacesBeforeWord,
    Rule::Spaces,
]);
const QWEN_2: Pass = Pass::Rules(&[
    CONTRACTION,
    WORD,
    ONE_NUMBER,
    OTHERS,
    Rule::LineEnds,
    Rule::SpacesBeforeWord,
    Rule::Spaces,
]);
const QWEN_3_5: Pass = Pass::Rules(&[
    CONTRACTION,
    run(
        Lead::Optional(split::word_lead),
        split::letter_or_mark,
        split::nothing,
    ),
    ONE_NUMBER,
    run(BLANK, split::other_than_mark, split::line_end),
    Rule::LineEnds,
    Rule::SpacesBeforeWord,
    Rule::Spaces,
]);
const SEED_CODER: Pass = Pass::Rules(&[
    CONTRACTION,
    WORD,
    ONE_NUMBER,
    run(BLANK, split::other_in_line, split::nothing),
    Rule::LineEnds,
    Rule::SpacesBeforeWord,
    Rule::Spaces,
]);
const UFAKZEKA: Pass = Pass::Rules(&[
    WORD,
    ONE_NUMBER,
    OTHERS,
    Rule::LineEnds,
    Rule::SpacesBeforeWord,
    Rule::Spaces,
]);
const TEKKEN: Pass = Pass::Rules(&[
    Rule::CasedWord { contraction: false },
    ONE_NUMBER,
    OTHERS_AND_SLASHES,
    Rule::LineEnds,
    Rule::SpacesBeforeWord,
    Rule::Spaces,
]);
const GPT_4O: Pass = Pass::Rules(&[
    Rule::CasedWord { contraction: true },
    few(split::number, 1, 3),
    OTHERS_AND_SLASHES,
    Rule::LineEnds,
    Rule::SpacesBeforeWord,
    Rule::Spaces,
]);
const DEEPSEEK_V3: Pass = Pass::Rules(&[
    run(
        Lead::Required(split::ascii_punctuation),
        split::ascii_letter,
        split::nothing,
    ),
    run(
        Lead::Optional(split::word_lead_no_punctuation),
        split::letter_or_mark,
        split::nothing,
    ),
    run(BLANK, split::punctuation_or_symbol, split::line_end),
    Rule::LineEnds,
    Rule::SpacesBeforeWord,
    Rule::Spaces,
]);
const BLOOM: Pass = Pass::Rules(&[run(BLANK, split::bloom_word, split::nothing)]);
const LINES: Pass = Pass::Rules(&[
    run(Lead::None, split::not_line_feed, split::nothing),
    run(Lead::None, split::line_feed, split::nothing),
]);
const DEFAULT_PUNCTUATION: Pass =
    Pass::Rules(&[run(Lead::None, split::default_punctuation, split::nothing)]);
const FALCON_PUNCTUATION: Pass =
    Pass::Rules(&[run(Lead::None, split::falcon_punctuation, split::nothing)]);
const NUMBERS: Pass = Pass::Rules(&[run(Lead::None, split::number, split::nothing)]);
const EACH_NUMBER: Pass = Pass::Rules(&[ONE_NUMBER]);
const THREE_NUMBERS: Pass = Pass::Rules(&[few(split::number, 1, 3)]);
const THREE_DIGITS: Pass = Pass::Rules(&[few(split::digit, 3, 3)]);

const EACH_LINE_END: Pass = Pass::Rules(&[few(split::line_end, 1, 1)]);
const SPACES_AT_END: Pass = Pass::Rules(&[Rule::SpacesAtEnd]);
const SPACED_LETTERS: Pass = Pass::Rules(&[run(SPACE, split::letter, split::nothing)]);
const SPACED_PUNCTUATION: Pass = Pass::Rules(&[run(SPACE, split::punctuation, split::nothing)]);
const DEEPSEEK_LETTERS: Pass = Pass::Rules(&[run(SPACE, split::deepseek_letter, split::nothing)]);
const DEEPSEEK_PUNCTUATION: Pass =
    Pass::Rules(&[run(SPACE, split::deepseek_punctuation, split::nothing)]);
const DEEPSEEK_CJK: Pass = Pass::Rules(&[run(Lead::None, split::deepseek_cjk, split::nothing)]);
const DEEPSEEK_V3_CJK: Pass =
    Pass::Rules(&[run(Lead::None, split::deepseek_v3_cjk, split::nothing)]);
