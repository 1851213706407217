//! Works out which tokens may come next, on a thread of its own, while the network
//! evaluates. The thread is there from the first answer on that has a grammar.

use std::sync::{Arc, mpsc};

use crate::engine::EngineError;
use crate::engine::guide::{Allowed, Grammar, Guide, GuideError};

/// The way to the thread.
#[derive(Default)]
pub(super) struct Masks {
    orders: Option<mpsc::Sender<Order>>,
}

struct Order {
    of: Of,
    left: u32,
    back: mpsc::SyncSender<Ready>,
}

/// Of what the next tokens are wanted.
enum Of {
    New(Arc<dyn Grammar>),
    Further(Box<dyn Guide>),
}

/// What has been worked out.
struct Ready {
    guide: Box<dyn Guide>,
    allowed: Result<Allowed, GuideError>,
}

/// What is being worked out.
pub(super) struct Coming(mpsc::Receiver<Ready>);

impl Masks {
    /// Begins on the first token of an answer within `grammar`, of `left` tokens at most.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub(super) fn begin(
        &mut self,
        grammar: Arc<dyn Grammar>,
        left: u32,
    ) -> Result<Coming, EngineError> {
        self.order(Of::New(grammar), left)
    }

    /// Begins on the next token of an answer, of which `left` may still come.
    ///
    /// # Errors
    /// As [`Masks::begin`].
    pub(super) fn go_on(
        &mut self,
        guide: Box<dyn Guide>,
        left: u32,
    ) -> Result<Coming, EngineError> {
        self.order(Of::Further(guide), left)
    }

    fn order(&mut self, of: Of, left: u32) -> Result<Coming, EngineError> {
        let orders = match self.orders.take() {
            Some(orders) => orders,
            None => start()?,
        };
        let (back, coming) = mpsc::sync_channel(1);
        // If the thread is gone, whoever waits hears it.
        drop(orders.send(Order { of, left, back }));
        self.orders = Some(orders);
        Ok(Coming(coming))
    }
}

impl Coming {
    /// Waits for what is still missing of it.
    ///
    /// # Errors
    /// If nothing may come next, or the thread is gone.
    pub(super) fn wait(self) -> Result<(Box<dyn Guide>, Allowed), EngineError> {
        let gone = |_| GuideError("its thread is gone".to_owned());
        let Ready { guide, allowed } = self.0.recv().map_err(gone)?;
        Ok((guide, allowed?))
    }
}

/// The thread. It ends when nobody orders any more.
fn start() -> Result<mpsc::Sender<Order>, EngineError> {
    let (orders, taken) = mpsc::channel::<Order>();
    let work = move || {
        for order in taken {
            let mut guide = match order.of {
                Of::New(grammar) => grammar.begin(),
                Of::Further(guide) => guide,
            };
            let allowed = guide.allowed(order.left);
            // Whoever does not wait any more has been cancelled.
            drop(order.back.send(Ready { guide, allowed }));
        }
    };
    std::thread::Builder::new()
        .name("masks".to_owned())
        .spawn(work)
        .map_err(|error| EngineError::Device(error.to_string()))?;
    Ok(orders)
}
