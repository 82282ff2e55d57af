//! Decides that the examples in `docs/` are compiled and run like those of the code.
//!
//! Leaves to others: what the documents say. Invariant: every document with a block of Rust is here,
//! and nothing of it is built but while documentation is tested.

#[doc = include_str!("../docs/architecture.md")]
mod architecture {}
#[doc = include_str!("../docs/benchmarks.md")]
mod benchmarks {}
#[doc = include_str!("../docs/decisions.md")]
mod decisions {}
#[doc = include_str!("../docs/durability.md")]
mod durability {}
#[doc = include_str!("../docs/embedding.md")]
mod embedding {}
#[doc = include_str!("../docs/fuzzing.md")]
mod fuzzing {}
#[doc = include_str!("../docs/gateways.md")]
mod gateways {}
#[doc = include_str!("../docs/lifecycle.md")]
mod lifecycle {}
#[doc = include_str!("../docs/migrating.md")]
mod migrating {}
#[doc = include_str!("../docs/operating.md")]
mod operating {}
#[doc = include_str!("../docs/receiving.md")]
mod receiving {}
#[doc = include_str!("../docs/requests.md")]
mod requests {}
#[doc = include_str!("../docs/simulation.md")]
mod simulation {}
