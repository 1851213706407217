//! The one permanent thread that spawns. Linux sends a child the signal it asked
//! for at its parent's death when the *thread* that made it ends, so a thread of
//! the runtime's pool, which may end at any time, must not be that parent.

use std::io;
use std::sync::mpsc;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A handle to the thread. The thread ends when the handle is dropped, which is
/// when nothing that was spawned runs any more.
pub struct Spawner {
    orders: mpsc::Sender<Order>,
}

/// One process to start.
struct Order {
    command: Command,
    /// The runtime that watches the process.
    runtime: Handle,
    child: oneshot::Sender<io::Result<Child>>,
}

impl Spawner {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (orders, received) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for mut order in received {
                    let _runtime = order.runtime.enter();
                    // Nobody waits any more: the child is dropped, and with it killed.
                    let _ = order.child.send(order.command.spawn());
                }
            })?;
        Ok(Self { orders })
    }

    /// Has a process started on the thread.
    pub async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (child, started) = oneshot::channel();
        let order = Order {
            command,
            runtime: Handle::current(),
            child,
        };
        let gone = || io::Error::other("the thread that spawns is gone");
        self.orders.send(order).map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }
}
