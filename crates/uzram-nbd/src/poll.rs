//! Receiving as something that can be polled for, before the leader sleeps.

use std::io;

use uzram_frontend::PollSource;

use crate::socket::Socket;

/// The next bytes of a connection, to be received into a buffer: their number, 0 at the end of the stream.
pub(crate) struct NextBytes<'a> {
    pub(crate) socket: &'a Socket,
    pub(crate) buf: &'a mut [u8],
}

impl PollSource for NextBytes<'_> {
    type Item = usize;

    fn take(&mut self) -> io::Result<Option<usize>> {
        self.socket.try_recv(self.buf)
    }

    fn sleep(&mut self) -> io::Result<usize> {
        self.socket.recv(self.buf)
    }
}
