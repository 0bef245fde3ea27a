//! The one binary `strait`. Owns nothing: see the library of this crate.

fn main() -> std::process::ExitCode {
    strait_cli::main()
}
