//! A connection that takes, sends, closes and breaks in any order: an exchange ends as the bytes that arrived say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wabahook::testing::check_exchange;

fuzz_target!(|data: &[u8]| check_exchange(data));
