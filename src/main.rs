//! The `larder` command.

fn main() -> std::process::ExitCode {
    larder::cli::main(larder::jobs::all(), larder::jobs::default_schedule())
}
