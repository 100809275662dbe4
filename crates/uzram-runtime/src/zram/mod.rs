//! Devices behind zram's own interface: each is made by [`launch`](crate::launch()) and asked through its server's control
//! socket.

mod local;
mod processes;

pub use local::Local;
pub use processes::ask;
