//! `conclave chat`: a conversation, through the tokenizer's chat template.

use std::io::IsTerminal as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::loading::{flag, pool, threads};
use super::source::Source;
use super::writing::{Script, Writing, say};
use crate::cli::{note, print};
use crate::learn::data::{Place, Tokens, Turn};
use crate::learn::model::decode::Decoding;
use crate::learn::sample::Sampler;

const EXAMPLE: &str = "Example:
  conclave chat --model qwen/ --adapter adapter/ --system 'You answer in one sentence.' --temperature 0.7

A line is a turn. /reset begins anew, /quit or the end of input ends it; Ctrl-C stops an answer.";

/// A conversation.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Words of the role `system` before the first turn.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    writing: Writing,
    /// The model alone answers as well, in a conversation of its own.
    #[arg(long)]
    compare: bool,
    /// Threads to compute on; by default all.
    #[arg(long)]
    threads: Option<usize>,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    args.writing.check()?;
    let pool = pool(threads(args.threads)?)?;
    pool.install(|| converse(args, &mut std::io::stdin().lock()))
}

/// One who answers: with its own memory of the conversation.
struct Speaker<'a> {
    name: &'static str,
    script: Script<'a>,
    sampler: Sampler,
    turns: Vec<Turn>,
}

fn converse(args: &Args, input: &mut dyn std::io::BufRead) -> anyhow::Result<()> {
    let (loaded, folder) = args.source.open_to_write()?;
    let tokens = Tokens::open(&folder)?;
    if !tokens.converses() {
        return Err(flag(format!(
            "{}: the model's tokenizer has no chat template; continue texts with `conclave generate`",
            folder.display()
        )));
    }
    let adapter = loaded.adapter.as_ref();
    if args.compare && adapter.is_none() {
        return Err(flag("--compare needs an adapter; give --adapter or --dir"));
    }
    let begin = || {
        let speaker = |name, adapter| Speaker {
            name,
            script: Script::new(Decoding::new(&loaded.model, adapter)),
            sampler: args.writing.sampler(),
            turns: args
                .system
                .iter()
                .map(|words| turn("system", words))
                .collect(),
        };
        let mut speakers = Vec::new();
        if args.compare {
            speakers.push(speaker("the model alone: ", None));
        }
        let name = if args.compare {
            "with the adapter: "
        } else {
            ""
        };
        speakers.push(speaker(name, adapter));
        speakers
    };
    let answering = stop_on_interrupt()?;
    let mut speakers = begin();
    let context = loaded.context();
    let prompts = std::io::stdin().is_terminal();
    let mut line = String::new();
    loop {
        if prompts {
            say("> ");
        }
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => {}
            "/quit" => return Ok(()),
            "/reset" => speakers = begin(),
            words => {
                let Some(asked) = ask(&mut speakers, words, &tokens, context)? else {
                    continue;
                };
                for (speaker, ids) in speakers.iter_mut().zip(asked) {
                    let answer = speaker.answer(args, &tokens, &ids, &answering);
                    answering.store(false, Ordering::Relaxed);
                    speaker.turns.push(turn("assistant", &answer?));
                }
            }
        }
    }
}

/// Puts words to all speakers, if each has room for them: what each reads then.
fn ask(
    speakers: &mut [Speaker<'_>],
    words: &str,
    tokens: &Tokens,
    context: usize,
) -> anyhow::Result<Option<Vec<Vec<u32>>>> {
    let read = speakers.iter().map(|speaker| {
        let mut turns = speaker.turns.clone();
        turns.push(turn("user", words));
        tokens.conversation_so_far(&turns, &spoken())
    });
    let read: Vec<Vec<u32>> = read.collect::<Result<_, _>>()?;
    let longest = read.iter().map(Vec::len).max().unwrap_or(0);
    if longest > context {
        note(&format!(
            "the conversation would have {longest} tokens, and the model takes {context}; write less, or begin anew \
             with /reset"
        ));
        return Ok(None);
    }
    for speaker in speakers {
        speaker.turns.push(turn("user", words));
    }
    Ok(Some(read))
}

impl Speaker<'_> {
    fn answer(
        &mut self,
        args: &Args,
        tokens: &Tokens,
        ids: &[u32],
        answering: &AtomicBool,
    ) -> anyhow::Result<String> {
        say(self.name);
        answering.store(true, Ordering::Relaxed);
        let show = |more: &str| {
            say(more);
            // An interrupt takes the flag away.
            if answering.load(Ordering::Relaxed) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        let written = self
            .script
            .write(tokens, ids, &args.writing, &mut self.sampler, show)?;
        print("");
        if !answering.load(Ordering::Relaxed) {
            note("stopped");
        }
        Ok(written.0)
    }
}

/// A flag that is taken away by Ctrl-C while it is set; Ctrl-C at any other time ends the program.
fn stop_on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let answering = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut interrupts = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?
    };
    let watched = Arc::clone(&answering);
    std::thread::Builder::new()
        .name("interrupt".into())
        .spawn(move || {
            while runtime.block_on(interrupts.recv()).is_some() {
                if !watched.swap(false, Ordering::Relaxed) {
                    std::process::exit(INTERRUPTED);
                }
            }
        })?;
    Ok(answering)
}

fn turn(role: &str, content: &str) -> Turn {
    Turn {
        role: role.to_owned(),
        content: content.to_owned(),
    }
}

fn spoken() -> Place {
    Place {
        file: Arc::from(Path::new("the conversation")),
        line: 1,
    }
}

/// 128 and the number of the signal, as shells report it.
const INTERRUPTED: i32 = 130;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::learn::fixture::{folder, tiny};

    #[test]
    fn words_that_one_has_no_room_for_are_put_to_none() {
        let folder = folder();
        let template = r#"{"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}"#;
        std::fs::write(folder.path().join("tokenizer_config.json"), template).unwrap();
        let (model, tokens) = (tiny(true), Tokens::open(folder.path()).unwrap());
        let speaker = |before: &str| Speaker {
            name: "",
            script: Script::new(Decoding::new(&model, None)),
            sampler: Sampler::new(crate::learn::sample::Sampling {
                temperature: 0.0,
                top_p: None,
                seed: 0,
            }),
            turns: vec![turn("user", before)],
        };
        let mut speakers = [speaker("a"), speaker("abcabc")];
        let mut said = |words| ask(&mut speakers, words, &tokens, 10).unwrap();
        assert_eq!(said("abcabc"), None);
        let read = said("bcab").expect("room for both");
        assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), [5, 10]);
        assert!(speakers.iter().all(|speaker| speaker.turns.len() == 2));
    }

    #[test]
    fn an_interrupt_stops_the_answer_and_not_the_program() {
        let answering = stop_on_interrupt().unwrap();
        for _ in 0..3 {
            answering.store(true, Ordering::Relaxed);
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::INT)
                .unwrap();
            let start = Instant::now();
            while answering.load(Ordering::Relaxed) {
                assert!(
                    start.elapsed() < Duration::from_secs(60),
                    "the signal was not seen"
                );
                std::thread::yield_now();
            }
        }
    }
}
