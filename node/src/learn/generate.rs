//! Text, token by token, until it ends or somebody ends it.

use std::ops::ControlFlow;

use super::data::{DataError, Tokens};
use super::model::decode::Decoding;
use super::sample::Sampler;

/// Continues a text that is not empty until an end token, `most` tokens, the end of the context, or a break of `each`,
/// which sees every new token; gives the new tokens, without the end token. `logits` are those after the text so far.
pub fn generate(
    decoding: &mut Decoding<'_>,
    mut logits: Vec<f32>,
    ends: &[u32],
    most: usize,
    sampler: &mut Sampler,
    mut each: impl FnMut(u32) -> ControlFlow<()>,
) -> Vec<u32> {
    let mut new = Vec::new();
    while new.len() < most {
        let token = sampler.choose(&logits);
        if ends.contains(&token) {
            break;
        }
        new.push(token);
        if each(token).is_break() || new.len() == most || decoding.room() == 0 {
            break;
        }
        logits = decoding.extend(&[token]);
    }
    new
}

/// New tokens as text that only grows: what may still become another letter, or the beginning of a stop string, is held
/// back; from a stop string on nothing is said.
#[derive(Debug)]
pub struct Spoken<'a> {
    tokens: &'a Tokens,
    before: Vec<u32>,
    prefix: usize,
    ids: Vec<u32>,
    stops: &'a [String],
    text: String,
    said: usize,
    stopped: bool,
}

impl<'a> Spoken<'a> {
    /// Text that follows the ids `before`, and ends before any of the strings `stops`.
    pub fn new(tokens: &'a Tokens, before: &[u32], stops: &'a [String]) -> Result<Self, DataError> {
        // A few tokens before decide whether the first new one begins with a space.
        let before = before[before.len().saturating_sub(CONTEXT)..].to_vec();
        Ok(Self {
            prefix: tokens.decode(&before)?.len(),
            tokens,
            before,
            ids: Vec::new(),
            stops,
            text: String::new(),
            said: 0,
            stopped: false,
        })
    }

    /// Takes in a token; gives what can be said for sure. Breaks where a stop string is complete.
    pub fn hear(&mut self, token: u32) -> Result<(&str, ControlFlow<()>), DataError> {
        self.ids.push(token);
        let mut ids = self.before.clone();
        ids.extend_from_slice(&self.ids);
        let whole = self.tokens.decode(&ids)?;
        self.text.clear();
        self.text
            .push_str(whole.get(self.prefix..).unwrap_or_default());
        if let Some(at) = self
            .stops
            .iter()
            .filter_map(|stop| self.text.find(stop.as_str()))
            .min()
        {
            self.text.truncate(at);
            self.stopped = true;
        }
        let until = if self.stopped {
            self.text.len()
        } else {
            sure(&self.text, self.stops)
        };
        let from = self.said.min(until);
        self.said = until.max(from);
        let flow = if self.stopped {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        };
        Ok((&self.text[from..self.said], flow))
    }

    /// What was held back, now that nothing follows.
    pub fn rest(&mut self) -> &str {
        let from = std::mem::replace(&mut self.said, self.text.len());
        &self.text[from.min(self.text.len())..]
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// How much of a text will not change, whatever follows.
fn sure(text: &str, stops: &[String]) -> usize {
    let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
    let begun = |stop: &String| {
        let mut lengths = (1..stop.len()).rev().filter(|n| stop.is_char_boundary(*n));
        lengths
            .find(|n| text[..whole].ends_with(&stop[..*n]))
            .unwrap_or(0)
    };
    whole - stops.iter().map(begun).max().unwrap_or(0)
}

const CONTEXT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::fixture::{folder, tiny};
    use crate::learn::sample::Sampling;

    #[test]
    fn what_may_become_a_stop_string_is_held_back() {
        let stops = ["</s>".to_owned(), "\nUser:".to_owned()];
        for (text, expected) in [
            ("hello", 5),
            ("hello <", 6),
            ("hello </s", 6),
            ("hello </x", 9),
            ("hello\n", 5),
            ("hello\nUse", 5),
            ("caf\u{fffd}", 3),
        ] {
            assert_eq!(sure(text, &stops), expected, "{text:?}");
        }
    }

    #[test]
    fn text_grows_and_ends_before_a_stop_string() {
        let folder = folder();
        let tokens = Tokens::open(folder.path()).unwrap();
        let stops = ["bc".to_owned()];
        let mut spoken = Spoken::new(&tokens, &[0, 2], &stops).unwrap();
        let mut said = String::new();
        let ids: [u32; 5] = [2, 3, 3, 4, 2];
        let heard = ids.iter().position(|token| {
            let (more, flow) = spoken.hear(*token).unwrap();
            said.push_str(more);
            flow.is_break()
        });
        assert_eq!(heard, Some(3), "a b b c: the stop is complete");
        said.push_str(spoken.rest());
        assert_eq!((said.as_str(), spoken.text()), ("ab", "ab"));
    }

    #[test]
    fn a_break_and_the_most_end_it_and_the_cache_goes_on() {
        let model = tiny(true);
        let greedy = || {
            Sampler::new(Sampling {
                temperature: 0.0,
                top_p: None,
                seed: 0,
            })
        };
        let whole = {
            let mut decoding = Decoding::new(&model, None);
            let logits = decoding.extend(&[0, 5]);
            generate(&mut decoding, logits, &[], 12, &mut greedy(), |_| {
                ControlFlow::Continue(())
            })
        };
        assert_eq!(whole.len(), 12);
        let mut decoding = Decoding::new(&model, None);
        let logits = decoding.extend(&[0, 5]);
        let mut count = 0;
        let broken = generate(&mut decoding, logits, &[], 12, &mut greedy(), |_| {
            count += 1;
            if count == 3 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(broken, whole[..3]);
        // Back to the prompt: the same tokens come again.
        decoding.rewind(1);
        let logits = decoding.extend(&[5]);
        let again = generate(&mut decoding, logits, &[], 12, &mut greedy(), |_| {
            ControlFlow::Continue(())
        });
        assert_eq!(again, whole);
        let mut decoding = Decoding::new(&model, None);
        let logits = decoding.extend(&[0, 5]);
        let ended = generate(
            &mut decoding,
            logits,
            &whole[4..5],
            12,
            &mut greedy(),
            |_| ControlFlow::Continue(()),
        );
        assert!(ended.len() <= 4);
    }
}
