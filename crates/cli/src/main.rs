//! The program `fornax`: trains, evaluates and uses networks from the command line.

mod bench;
mod embed;
mod eval;
mod generate;
mod inspect;
mod list;
mod output;
mod predict;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Deep learning in one program.
#[derive(Parser)]
#[command(name = "fornax", version, about, arg_required_else_help = true)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Eval(eval::Args),
    Predict(predict::Args),
    Generate(generate::Args),
    Embed(embed::Args),
    Inspect(inspect::Args),
    List(list::Args),
    Bench(bench::Args),
}

/// What a subcommand returns: errors are told on stderr by `main` and nowhere else.
type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let outcome = match Program::parse().command {
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::List(args) => list::run(args),
        Command::Bench(args) => bench::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has gone, for example `| head`: not worth a word.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Sets how many threads share the work, if it was asked for.
fn set_threads(threads: Option<usize>) -> Outcome {
    match threads {
        Some(0) => Err("--threads must be at least 1".into()),
        Some(threads) => {
            fornax::tensor::cpu::pool::set_threads(threads);
            Ok(())
        }
        None => Ok(()),
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
