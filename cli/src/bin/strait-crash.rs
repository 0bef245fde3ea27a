//! `strait` as tests kill it: at the n-th durable step. Owns nothing: see the library of this crate.

fn main() -> std::process::ExitCode {
    strait_cli::main()
}
