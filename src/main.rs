//! The `larder` command.

/// A daemon's threads allocate and free for each other all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    larder::cli::main(larder::jobs::all(), larder::jobs::default_schedule())
}
