//! Text, token by token, until it ends or somebody ends it.

use std::ops::ControlFlow;

use candle_core::Result;

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
) -> Result<Vec<u32>> {
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
        logits = decoding.extend(&[token])?;
    }
    Ok(new)
}

/// New tokens as text that only grows: what may still become another letter, or the beginning of a stop string, is held
/// back; from a stop string on nothing is said.
///
/// What a token says depends on those before it (a space, the rest of a letter), but only on few: those since the text
/// was last whole are decoded together with those that made it whole the time before.
#[derive(Debug)]
pub struct Spoken<'a> {
    tokens: &'a Tokens,
    /// The last tokens whose text is whole, and how long it is.
    before: (Vec<u32>, usize),
    /// Those since.
    ids: Vec<u32>,
    stops: &'a [String],
    text: String,
    /// How much of the text stays, whatever follows.
    whole: usize,
    said: usize,
    stopped: bool,
}

impl<'a> Spoken<'a> {
    /// Text that follows the ids `before`, and ends before any of the strings `stops`.
    pub fn new(
        tokens: &'a Tokens,
        before: &[u32],
        stops: &'a [String],
    ) -> std::result::Result<Self, DataError> {
        Ok(Self {
            before: (before.to_vec(), tokens.decode(before)?.len()),
            tokens,
            ids: Vec::new(),
            stops,
            text: String::new(),
            whole: 0,
            said: 0,
            stopped: false,
        })
    }

    /// Takes in a token; gives what can be said for sure. Breaks where a stop string is complete.
    pub fn hear(&mut self, token: u32) -> std::result::Result<(&str, ControlFlow<()>), DataError> {
        self.ids.push(token);
        let together = [&self.before.0[..], &self.ids].concat();
        let decoded = self.tokens.decode(&together)?;
        self.text.truncate(self.whole);
        self.text
            .push_str(decoded.get(self.before.1..).unwrap_or_default());
        if self.text.len() > self.whole && !self.text.ends_with(char::REPLACEMENT_CHARACTER) {
            let ids = std::mem::take(&mut self.ids);
            self.before = (ids.clone(), self.tokens.decode(&ids)?.len());
            self.whole = self.text.len();
        }
        // Whatever may be the beginning of a stop string was not said.
        let from = self.said.min(self.text.len());
        let new = &self.text[from..];
        let found = self.stops.iter().filter_map(|stop| new.find(stop.as_str()));
        if let Some(at) = found.min() {
            self.text.truncate(from + at);
            self.stopped = true;
            self.said = self.text.len();
        } else {
            self.said = from + sure(new, self.stops);
        }
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
            let logits = decoding.extend(&[0, 5]).unwrap();
            generate(&mut decoding, logits, &[], 12, &mut greedy(), |_| {
                ControlFlow::Continue(())
            })
            .unwrap()
        };
        assert_eq!(whole.len(), 12);
        let mut decoding = Decoding::new(&model, None);
        let logits = decoding.extend(&[0, 5]).unwrap();
        let mut count = 0;
        let broken = generate(&mut decoding, logits, &[], 12, &mut greedy(), |_| {
            count += 1;
            if count == 3 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
        assert_eq!(broken, whole[..3]);
        // Back to the prompt: the same tokens come again.
        decoding.rewind(1);
        let logits = decoding.extend(&[5]).unwrap();
        let again = generate(&mut decoding, logits, &[], 12, &mut greedy(), |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(again, whole);
        let mut decoding = Decoding::new(&model, None);
        let logits = decoding.extend(&[0, 5]).unwrap();
        let ended = generate(
            &mut decoding,
            logits,
            &whole[4..5],
            12,
            &mut greedy(),
            |_| ControlFlow::Continue(()),
        )
        .unwrap();
        assert!(ended.len() <= 4);
    }

    #[test]
    fn letters_of_several_tokens_are_said_whole_and_no_more_is_decoded_than_needed() {
        let folder = folder();
        let mut vocabulary = serde_json::Map::new();
        for token in [
            "<s>", "▁a", "▁b", "b", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0xE2>", "<0x82>",
            "<0xAC>",
        ] {
            vocabulary.insert(token.to_owned(), vocabulary.len().into());
        }
        let decoders = serde_json::json!([
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]);
        let tokenizer = serde_json::json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "vocab": vocabulary,
                "merges": []}});
        let path = folder.path().join("tokenizer.json");
        std::fs::write(path, tokenizer.to_string()).unwrap();
        let tokens = Tokens::open(folder.path()).unwrap();
        let (smile, euro) = ([4, 5, 6, 7], [8, 9, 10]);
        let mut ids = vec![0, 1];
        for round in 0..40 {
            ids.extend(smile.iter().chain(&euro));
            ids.extend([[2, 3], [1, 1], [0, 3]][round % 3]);
            ids.extend(euro);
        }
        // The last letter is never finished.
        ids.extend([3, smile[0], smile[1]]);
        let expected = tokens.decode(&ids).unwrap();
        for start in [1, 2, 6, 42] {
            let mut spoken = Spoken::new(&tokens, &ids[..start], &[]).unwrap();
            let mut said = tokens.decode(&ids[..start]).unwrap();
            for (at, token) in ids[start..].iter().enumerate() {
                let (more, _) = spoken.hear(*token).unwrap();
                assert!(!more.contains(char::REPLACEMENT_CHARACTER), "{more}");
                said.push_str(more);
                let held = spoken.ids.len() + spoken.before.0.len();
                assert!(held < 16 || at < 16, "{held} tokens at {at}");
            }
            said.push_str(spoken.rest());
            assert_eq!(said, expected, "from {start}");
        }
    }
}
