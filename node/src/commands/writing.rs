//! What `generate` and `chat` share: the flags of sampling, and one text in the making.

use std::io::Write as _;
use std::ops::ControlFlow;

use super::loading::{flag, full};
use crate::learn::data::Tokens;
use crate::learn::generate::{Spoken, generate};
use crate::learn::model::decode::Decoding;
use crate::learn::sample::{Sampler, Sampling};

/// How text is chosen, and where it ends.
#[derive(Debug, Clone, clap::Args)]
pub struct Writing {
    /// Most tokens to generate.
    #[arg(long, default_value_t = 256)]
    pub max_tokens: usize,
    /// 0 takes the likeliest token always.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Draw from the smallest set of tokens with this probability together; needs a temperature.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// End before this text; may be given more than once.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Of the draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// A text: its tokens, and the model's memory of them.
#[derive(Debug)]
pub struct Script<'a> {
    decoding: Decoding<'a>,
    held: Vec<u32>,
}

impl Writing {
    /// Refuses values that cannot be meant.
    pub fn check(&self) -> anyhow::Result<()> {
        let temperature = self.temperature;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(flag(format!(
                "--temperature {temperature} must be 0 or more"
            )));
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(flag(format!("--top-p {p} must be above 0 and at most 1")));
        }
        if self.top_p.is_some() && temperature <= 0.0 {
            return Err(flag(
                "--top-p says what tokens are drawn from, and --temperature 0 draws none; give one above 0",
            ));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(flag("--stop is empty; give the text to end before"));
        }
        Ok(())
    }

    /// A stream of choices.
    pub fn sampler(&self) -> Sampler {
        Sampler::new(Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            seed: self.seed,
        })
    }
}

impl<'a> Script<'a> {
    /// An empty text.
    pub fn new(decoding: Decoding<'a>) -> Self {
        Self {
            decoding,
            held: Vec::new(),
        }
    }

    /// Continues `ids`, of which what the last text began with is not computed again; `show` sees the text as it grows
    /// and may end it. Gives the text and how many tokens it has.
    ///
    /// # Panics
    /// If `ids` is empty or longer than the context.
    pub fn write(
        &mut self,
        tokens: &Tokens,
        ids: &[u32],
        writing: &Writing,
        sampler: &mut Sampler,
        mut show: impl FnMut(&str) -> ControlFlow<()>,
    ) -> anyhow::Result<(String, usize)> {
        let common = self
            .held
            .iter()
            .zip(ids)
            .take_while(|(a, b)| a == b)
            .count();
        let common = common.min(ids.len() - 1);
        self.decoding.rewind(common);
        let logits = self.decoding.extend(&ids[common..]).map_err(full)?;
        let mut spoken = Spoken::new(tokens, ids, &writing.stop)?;
        let mut fault = None;
        let (ends, most) = (tokens.ends(), writing.max_tokens);
        let new = generate(
            &mut self.decoding,
            logits,
            ends,
            most,
            sampler,
            |token| match spoken.hear(token) {
                Ok((more, flow)) => {
                    if show(more).is_break() {
                        ControlFlow::Break(())
                    } else {
                        flow
                    }
                }
                Err(error) => {
                    fault = Some(error);
                    ControlFlow::Break(())
                }
            },
        )
        .map_err(full)?;
        if let Some(error) = fault {
            return Err(error.into());
        }
        let _ended = show(spoken.rest());
        self.held = ids.to_vec();
        // The last token was chosen, and not read by the model.
        self.held
            .extend_from_slice(&new[..new.len().saturating_sub(1)]);
        Ok((spoken.text().to_owned(), new.len()))
    }
}

/// Writes text to stdout as it comes. A reader that went away is no failure.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::fixture::{folder, tiny};

    #[test]
    fn what_is_remembered_changes_nothing() {
        let folder = folder();
        let (model, tokens) = (tiny(true), Tokens::open(folder.path()).unwrap());
        let writing = Writing {
            max_tokens: 6,
            temperature: 1.0,
            top_p: Some(0.9),
            stop: Vec::new(),
            seed: 3,
        };
        let write = |script: &mut Script<'_>, ids: &[u32]| {
            let mut shown = String::new();
            let mut sampler = writing.sampler();
            let show = |more: &str| {
                shown.push_str(more);
                ControlFlow::Continue(())
            };
            let written = script
                .write(&tokens, ids, &writing, &mut sampler, show)
                .unwrap();
            assert_eq!(shown, written.0);
            (written, script.held.clone())
        };
        let fresh = || Script::new(Decoding::new(&model, None));
        let mut script = fresh();
        let (_, held) = write(&mut script, &[0, 2, 3]);
        let longer: Vec<u32> = held.iter().copied().chain([4, 2]).collect();
        for ids in [&longer[..], &longer[..4], &[0, 2, 3], &[0, 4]] {
            assert_eq!(write(&mut script, ids), write(&mut fresh(), ids), "{ids:?}");
        }
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused() {
        let good = Writing {
            max_tokens: 1,
            temperature: 0.5,
            top_p: Some(1.0),
            stop: vec!["x".into()],
            seed: 0,
        };
        good.check().unwrap();
        for (wrong, word) in [
            (
                Writing {
                    temperature: -1.0,
                    ..good.clone()
                },
                "--temperature",
            ),
            (
                Writing {
                    temperature: f64::NAN,
                    ..good.clone()
                },
                "--temperature",
            ),
            (
                Writing {
                    top_p: Some(0.0),
                    ..good.clone()
                },
                "--top-p",
            ),
            (
                Writing {
                    temperature: 0.0,
                    ..good.clone()
                },
                "--temperature 0 draws none",
            ),
            (
                Writing {
                    stop: vec![String::new()],
                    ..good.clone()
                },
                "--stop",
            ),
        ] {
            let said = wrong.check().unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
    }
}
