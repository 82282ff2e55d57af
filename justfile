# What a developer runs. `just check` is what the continuous integration runs.

# Everything that must hold before a change is merged
check:
    .ci/run

# Licences and bans of the dependency tree; needs cargo-deny
deny:
    cargo deny --all-features check licenses bans

# Advisories too; asks the network for the newest ones
deny-advisories:
    cargo deny --all-features check advisories

# The tests, by the README's command
test:
    .ci/run test

# The documentation, with every warning an error
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --all-features

# The main job on sample input, with a kill -9 half-way
demo:
    cargo run --release --features host -- demo
