# What there is to do here.
default:
    @just --list --unsorted

# Run the tests on both engines, or those whose names contain a filter.
test *FILTER:
    tests/run.sh {{ FILTER }}

# Check formatting, and let clippy look at every combination that is released.
lint:
    cargo fmt --check
    cargo clippy --all-targets --all-features -- -D warnings
    cargo clippy --no-default-features -- -D warnings

# Build the documentation; a broken link is an error.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

# Check licences, sources and duplicates of all dependencies.
deny:
    PATH="${XDG_CACHE_HOME:-$HOME/.cache}/larder/tools/bin:$PATH" cargo deny check --hide-inclusion-graph bans licenses sources

# Everything that a change must pass.
ci:
    .ci/run

# Build the binary: target/release/larder.
build:
    cargo build --release
