//! The model's chat template: a conversation rendered as text, with the assistant's words marked.

use std::ops::Range;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};

use super::{DataError, Place, Turn};

/// A Jinja template from `chat_template.jinja` or `tokenizer_config.json`.
#[derive(Debug)]
pub(super) struct Chat {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

const NAME: &str = "chat";
/// What one rendering may cost: a unit is an instruction or 64 bytes, so it ends within seconds and 256 MiB, whatever
/// the template says.
const FUEL: u64 = 1 << 22;

impl Chat {
    /// The template of a model's folder, whose tokenizer has these settings; `None` if it has none.
    pub(super) fn open(
        model: &Path,
        settings: &serde_json::Value,
    ) -> Result<Option<Self>, DataError> {
        let Some(source) = template(model, settings) else {
            return Ok(None);
        };
        Self::new(
            &source,
            special(settings, "bos_token"),
            special(settings, "eos_token"),
            model,
        )
        .map(Some)
    }

    fn new(source: &str, bos: String, eos: String, path: &Path) -> Result<Self, DataError> {
        let wrong = |error: minijinja::Error| {
            DataError::tokenizer(
                path,
                format!("the chat template is malformed: {error}; mend it"),
            )
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(wrong)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |why: String| -> Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
            },
        );
        environment
            .add_template_owned(NAME, without_marks(source))
            .map_err(wrong)?;
        Ok(Self {
            environment,
            bos,
            eos,
        })
    }

    /// The conversation as text and the byte ranges of the assistant's turns, with the marks that
    /// the template sets behind them.
    pub(super) fn render(
        &self,
        turns: &[Turn],
        at: &Place,
    ) -> Result<(String, Vec<Range<usize>>), DataError> {
        let whole = self.text(turns, false, at)?;
        let mut spoken = Vec::new();
        for (index, turn) in turns
            .iter()
            .enumerate()
            .filter(|(_, turn)| turn.role == "assistant")
        {
            let start = self.text(&turns[..index], true, at)?;
            let last = self.text(&turns[..=index], false, at)?;
            let range = within(&whole, &start, &last, turn.content.trim());
            spoken.push(range.ok_or_else(|| DataError::Malformed {
                at: at.clone(),
                what: format!(
                    "the model's chat template rewrites earlier turns, so that turn {index} cannot be scored; give \
                     prompt and completion instead"
                ),
            })?);
        }
        Ok((whole, spoken))
    }

    pub(super) fn text(
        &self,
        turns: &[Turn],
        prompt: bool,
        at: &Place,
    ) -> Result<String, DataError> {
        let messages: Vec<Value> = turns
            .iter()
            .map(|turn| context! { role => turn.role.as_str(), content => turn.content.as_str() })
            .collect();
        let known = context! {
            messages => messages,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => prompt,
        };
        let rendered = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(known));
        rendered.map_err(|error| DataError::Malformed {
            at: at.clone(),
            what: format!(
                "field messages does not fit the model's chat template: {error}; change the turns"
            ),
        })
    }
}

/// Where in a conversation a turn of these words stands: `start` is what comes before it, `last` the conversation up to
/// and with it.
///
/// Some templates (Qwen3's) write a turn otherwise once others follow: then its words are looked for where it begins,
/// and the marks behind them are those that stand behind them in `last`.
fn within(whole: &str, start: &str, last: &str, words: &str) -> Option<Range<usize>> {
    let behind = whole.strip_prefix(start)?;
    if let Some(turn) = last.strip_prefix(start)
        && whole.starts_with(last)
    {
        return Some(start.len()..start.len() + turn.len());
    }
    let marks = &last[last.rfind(words)? + words.len()..];
    behind.strip_prefix(words)?.strip_prefix(marks)?;
    Some(start.len()..start.len() + words.len() + marks.len())
}

/// The chat template of a model's folder, whose tokenizer has these settings.
pub(in crate::learn) fn template(model: &Path, settings: &serde_json::Value) -> Option<String> {
    let file = std::fs::read_to_string(model.join("chat_template.jinja"));
    file.ok().or_else(|| template_of(settings))
}

/// A JSON file of a model's folder.
pub(in crate::learn) fn json(path: &Path) -> Result<serde_json::Value, DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    serde_json::from_str(&text).map_err(|error| {
        let path = PathBuf::from(path);
        DataError::Tokenizer {
            path,
            what: format!("no valid JSON: {error}; fetch the model again"),
        }
    })
}

/// A template without the marks `{% generation %}` around the assistant's words, which transformers knows and Jinja
/// does not: they become conditions that hold, which keep the white space that was meant.
fn without_marks(source: &str) -> String {
    let mut parts = source.split("{%");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("{%");
        let inside = part.find("%}").map(|end| &part[..end]);
        let (from, to) = match inside.map(|inside| inside.trim_matches([' ', '\n', '-', '+'])) {
            Some("generation") => ("generation", "if true"),
            Some("endgeneration") => ("endgeneration", "endif"),
            _ => ("", ""),
        };
        out.push_str(&part.replacen(from, to, 1));
    }
    out
}

fn template_of(settings: &serde_json::Value) -> Option<String> {
    match settings.get("chat_template")? {
        serde_json::Value::String(source) => Some(source.clone()),
        serde_json::Value::Array(several) => several
            .iter()
            .find(|one| one.get("name").is_some_and(|name| name == "default"))
            .and_then(|one| one.get("template")?.as_str().map(str::to_owned)),
        _ => None,
    }
}

pub(super) fn special(settings: &serde_json::Value, name: &str) -> String {
    let value = settings.get(name);
    let text = value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
    text.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const CHATML: &str = "{% for message in messages %}\n{{'<|im_start|>' + message['role'] + '\\n' + \
        message['content'].strip() + '<|im_end|>' + '\\n'}}{% endfor %}\n\
        {% if add_generation_prompt %}\n{{ '<|im_start|>assistant\\n' }}{% endif %}";

    fn turn(role: &str, content: &str) -> Turn {
        Turn {
            role: role.into(),
            content: content.into(),
        }
    }

    fn at() -> Place {
        Place {
            file: Arc::from(Path::new("rows.jsonl")),
            line: 4,
        }
    }

    fn chat(source: &str) -> Result<Chat, DataError> {
        Chat::new(
            source,
            "<s>".into(),
            "</s>".into(),
            Path::new("tokenizer_config.json"),
        )
    }

    #[test]
    fn assistant_turns_are_marked() {
        let turns = [
            turn("user", "hi "),
            turn("assistant", "yo"),
            turn("user", "more"),
            turn("assistant", "so"),
        ];
        let (whole, spoken) = chat(CHATML)
            .expect("parsed")
            .render(&turns, &at())
            .expect("rendered");
        let words: Vec<_> = spoken
            .into_iter()
            .map(|range| whole[range].to_owned())
            .collect();
        assert_eq!(words, ["yo<|im_end|>\n", "so<|im_end|>\n"]);
        assert!(
            whole.starts_with("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo"),
            "{whole}"
        );
    }

    #[test]
    fn turns_that_are_written_otherwise_once_others_follow_are_found() {
        // As Qwen3's: thoughts stand before the last answer alone.
        let thinking = "{% for message in messages %}<{{ message.role }}>\
            {% if loop.last and message.role == 'assistant' %}<think></think>{% endif %}\
            {{ message.content }}<end>{% endfor %}\
            {% if add_generation_prompt %}<assistant>{% endif %}";
        let turns = ["user", "assistant", "user", "assistant"];
        let turns: Vec<Turn> = turns.map(|role| turn(role, "yo")).into();
        let parsed = chat(thinking).expect("parsed");
        let (whole, spoken) = parsed.render(&turns, &at()).expect("rendered");
        let words: Vec<&str> = spoken.iter().map(|range| &whole[range.clone()]).collect();
        assert_eq!(words, ["yo<end>", "<think></think>yo<end>"]);
        assert_eq!(spoken[0], 24..31);
        // What is left out of an earlier turn is not looked for elsewhere.
        let dropping = thinking.replace(
            "{{ message.content }}",
            "{{ message.content if loop.last else 'no' }}",
        );
        let said = chat(&dropping).expect("parsed").render(&turns, &at());
        assert!(said.is_err(), "{said:?}");
    }

    #[test]
    fn marks_of_generation_are_passed_over_with_the_white_space_that_they_take() {
        let marked = "{%- for m in messages %}{{ m.role }}: {% generation %}{{ m.content }}\
            {%- endgeneration -%}  {% endfor %}";
        let text = chat(marked)
            .expect("parsed")
            .text(&[turn("user", "hi")], false, &at());
        assert_eq!(text.expect("rendered"), "user: hi");
        let word = "{% set generation = 1 %}{{ generation }}";
        assert_eq!(without_marks(word), word);
    }

    #[test]
    fn templates_that_refuse_or_rewrite_are_reported_with_the_line() {
        let refusing = chat("{{ raise_exception('roles must alternate') }}").expect("parsed");
        let turns = [
            turn("user", "a"),
            turn("assistant", "b"),
            turn("assistant", "c"),
        ];
        let said = refusing
            .render(&turns, &at())
            .expect_err("refused")
            .to_string();
        assert!(
            said.starts_with("rows.jsonl:4: ") && said.contains("roles must alternate"),
            "{said}"
        );
        let rewriting = chat("{{ messages | length }}{{ messages[-1].content }}").expect("parsed");
        let said = rewriting
            .render(&turns, &at())
            .expect_err("refused")
            .to_string();
        assert!(said.contains("rewrites earlier turns"), "{said}");
        assert!(chat("{% for %}").is_err());
    }

    #[test]
    fn templates_that_never_end_or_grow_are_stopped() {
        let loops = "{% for a in range(99999) %}".repeat(4) + &"{% endfor %}".repeat(4);
        let doubles = "{% set it = namespace(x='12345678') %}\
            {% for a in range(60) %}{% set it.x = it.x ~ it.x %}{% endfor %}";
        for endless in [loops.as_str(), doubles] {
            let endless = chat(endless).expect("parsed");
            let said = endless.text(&[turn("user", "hi")], true, &at());
            let said = said.expect_err("stopped").to_string();
            assert!(said.contains("fuel") && said.lines().count() == 1, "{said}");
        }
    }
}
