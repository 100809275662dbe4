//! Identities that nobody else has.

use rustix::rand::{GetRandomFlags, getrandom};

/// 16 hexadecimal digits.
pub(crate) fn random() -> String {
    let mut bytes = [0u8; 8];
    // 8 bytes come at once, on every kernel that has the call.
    if getrandom(&mut bytes, GetRandomFlags::empty()).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = (now.unwrap_or_default().as_nanos(), std::process::id());
        let hash = blake3::hash(format!("{seed:?}").as_bytes());
        bytes.copy_from_slice(&hash.as_bytes()[..8]);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who this is: `host:pid`.
pub(crate) fn holder() -> String {
    let name = rustix::system::uname();
    let host = name.nodename().to_string_lossy().into_owned();
    format!("{host}:{}", std::process::id())
}
