//! A fault that only an engine finds which sees branches and compared numbers: the proof that the others are guided.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let [b'u', b'z', b'r', b'a', b'm', rest @ ..] = data
        && let Some(number) = rest.first_chunk()
        && u64::from_le_bytes(*number) == 0x1234_5678_9ABC_DEF0
    {
        panic!("the planted fault");
    }
});
