//! Behind a valid handshake, whatever a client says is answered in the protocol's form, or its connection ends.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use uzram_fuzz::nbd::{Headers, Nbd, after_handshake, check_replies, handshake};
use uzram_fuzz::{deep, input::Input, peer::MOST};

static SERVER: LazyLock<Nbd> = LazyLock::new(Nbd::new);

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let headers = Headers::of(input.byte());
    let mut said = handshake(headers);
    let requests = &input.0[..input.0.len().min(MOST - said.len())];
    said.extend(requests);
    let heard = SERVER.talk(&said);
    if check_replies(headers, requests, after_handshake(&heard)) > 1 {
        deep("two requests were carried out");
    }
});
