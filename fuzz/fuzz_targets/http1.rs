//! Any bytes as a response: the same result however they are cut, and never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wabahook::testing::check_response;

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first_chunk::<9>() else { return };
    let [is_head_request, cuts @ ..] = head;
    check_response(rest, cuts, *is_head_request == b'H');
});
