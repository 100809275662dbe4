//! What clients of the API may take.

use std::time::Duration;

/// What clients may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Longest head of a request, in bytes.
    pub head_bytes: usize,
    /// Most headers of a request.
    pub headers: usize,
    /// Longest body, in bytes.
    pub body_bytes: usize,
    /// The same of what a device's server is asked, which may bring a dictionary.
    pub request_bytes: usize,
    /// How long a client may take to send its request, from the first byte to the last.
    pub sending: Duration,
    /// How long it may take to read the answer.
    pub reading: Duration,
    /// Requests that change something, at work at once. More wait.
    pub changes: usize,
    /// Requests that change nothing, likewise.
    pub looks: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 64,
            head_bytes: 16 << 10,
            headers: 64,
            body_bytes: 1 << 20,
            request_bytes: uzram_control::MAX_LINE,
            sending: Duration::from_secs(10),
            reading: Duration::from_secs(10),
            changes: 8,
            looks: 8,
        }
    }
}
