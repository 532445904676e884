//! `fornax generate`: let a model write.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use serde_json::json;

use crate::output::{json_line, line};
use crate::{Outcome, set_threads};
use fornax::data::text::{Message, Role, chatml};
use fornax::models::generate::{Options, Sampling};
use fornax::train::{Writer, Written, hub};

/// Let a model write: go on with a prompt, or chat
#[derive(clap::Args)]
pub struct Args {
    /// A run's folder, a folder of a GPT-2 or LLaMA from HuggingFace, a .gguf file, the name of
    /// fetched weights (smollm2), or a HuggingFace OWNER/NAME or OWNER/NAME/FILE.gguf
    model: PathBuf,
    /// Text to go on with, several times for several texts at once; without it, stdin is the
    /// prompt, or a conversation if it is a terminal
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Take the prompt for what a person says to a model that was trained on conversations
    #[arg(long)]
    chat: bool,
    /// The most new tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// What scores are divided by before the choice; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f64,
    /// Choose among so many of the likeliest tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Choose among tokens at least this many times as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f64,
    /// Make tokens that have occurred less likely; 1: no
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// End a text before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Search for the likeliest text with this many beams, as far as the context reaches, instead of choosing token by token
    #[arg(long, value_name = "N", conflicts_with_all = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop"])]
    beams: Option<usize>,
    /// Seed of the choices
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Threads; as many as the machine has without it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object per text, and nothing else
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Outcome {
    set_threads(args.threads)?;
    check(&args)?;
    let writer = Writer::open(&hub::resolve(&args.model)?)?;
    if args.chat && !writer.chats() {
        return Err(
            "--chat is for models that were trained on conversations in ChatML; this one's \
                    vocabulary has no <|im_start|>"
                .into(),
        );
    }
    if args.prompt.is_empty() && std::io::stdin().is_terminal() && !args.json {
        return converse(&writer, &args);
    }
    let mut prompts = args.prompt.clone();
    if prompts.is_empty() {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        prompts.push(text.trim_end_matches('\n').to_owned());
    }
    if args.chat {
        let asked = |text: &String| chatml(&[Message::new(Role::User, text)]);
        prompts = prompts.iter().map(asked).collect();
    }
    let written = match args.beams {
        Some(beams) => {
            let mut all = Written {
                texts: Vec::new(),
                tokens: 0,
                seconds: 0.0,
            };
            for prompt in &prompts {
                let one = writer.search(prompt, beams, args.max_tokens)?;
                all.texts.extend(one.texts);
                all.tokens += one.tokens;
                all.seconds += one.seconds;
            }
            all
        }
        None => {
            let texts: Vec<&str> = prompts.iter().map(String::as_str).collect();
            // A single text is shown as it comes.
            let live = !args.json && texts.len() == 1;
            // Its prompt only once it is known to be one.
            let mut prompt = match live && !args.chat && writer.continues() {
                true => prompts[0].as_str(),
                false => "",
            };
            let mut gone = None;
            let written = writer.write(&texts, &options(&args), &args.stop, |_, piece| {
                if live && let Err(error) = show(prompt).and_then(|()| show(piece)) {
                    gone.get_or_insert(error);
                }
                prompt = "";
            })?;
            if let Some(error) = gone {
                return Err(error.into());
            }
            if live {
                line(prompt)?;
                tell_speed(&written);
                return Ok(());
            }
            written
        }
    };
    for (prompt, text) in prompts.iter().zip(&written.texts) {
        if args.json {
            json_line(&json!({
                "prompt": prompt,
                "text": text,
                "tokens_per_second": written.tokens as f64 / written.seconds,
            }))?;
        } else {
            let shown = writer.continues() && !args.chat;
            let prompt = if shown { prompt.as_str() } else { "" };
            line(format!("{prompt}{text}\n"))?;
        }
    }
    if !args.json {
        tell_speed(&written);
    }
    Ok(())
}

fn check(args: &Args) -> Outcome {
    let wrong = |what: &str| -> Outcome { Err(what.to_owned().into()) };
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return wrong("--temperature is a number, at least 0");
    }
    if !(0.0..=1.0).contains(&args.top_p) || !(0.0..=1.0).contains(&args.min_p) {
        return wrong("--top-p and --min-p are probabilities from 0 to 1");
    }
    if !(args.repetition_penalty > 0.0 && args.repetition_penalty.is_finite()) {
        return wrong("--repetition-penalty is a number above 0");
    }
    // A cache for so many tokens may be taken at once.
    if args.max_tokens > 1 << 20 {
        return wrong("--max-tokens is at most 1048576");
    }
    if args.beams == Some(0) {
        return wrong("--beams must be at least 1");
    }
    Ok(())
}

fn options(args: &Args) -> Options {
    Options {
        most: args.max_tokens,
        sampling: Sampling {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repetition_penalty: args.repetition_penalty,
            seed: args.seed,
        },
        ends: Vec::new(),
    }
}

fn show(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn tell_speed(written: &Written) {
    eprintln!(
        "{} tokens in {:.2} s: {:.1} tokens per second",
        written.tokens,
        written.seconds,
        written.tokens as f64 / written.seconds.max(1e-9)
    );
}

/// Line by line: a conversation where the model knows what that is, else one text after the other.
fn converse(writer: &Writer, args: &Args) -> Outcome {
    let chats = writer.chats();
    let mut messages = Vec::new();
    let mut options = options(args);
    loop {
        show("> ")?;
        let mut said = String::new();
        if std::io::stdin().read_line(&mut said)? == 0 {
            return Ok(line("")?);
        }
        let said = said.trim_end_matches(['\r', '\n']);
        if said.is_empty() {
            continue;
        }
        let prompt = if chats {
            messages.push(Message::new(Role::User, said));
            chatml(&messages)
        } else {
            said.to_owned()
        };
        let mut gone = None;
        let written = writer.write(&[&prompt], &options, &args.stop, |_, piece| {
            if let Err(error) = show(piece) {
                gone.get_or_insert(error);
            }
        })?;
        if let Some(error) = gone {
            return Err(error.into());
        }
        line("")?;
        tell_speed(&written);
        if chats {
            messages.push(Message::new(Role::Assistant, written.texts.concat()));
        }
        // Another answer to the same words may differ.
        options.sampling.seed += 1;
    }
}
