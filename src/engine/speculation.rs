//! Speculative decoding (Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023,
//! arXiv 2302.01318): tokens that may come next are guessed cheaply, and the network
//! reads all of them in one pass, which costs little more than to read one. What is
//! kept is decided by the sequence's own sampler: at each place it chooses from the
//! network's own logits as it would have without a guess, and the guesses count as long
//! as they are what it has chosen. So neither the tokens nor the random numbers that a
//! sequence takes depend on what was guessed.
//!
//! Here is what is pure: guesses out of the text itself, and whether guessing pays. Who
//! does it is in `engine/thread`.

pub mod lookup;
pub mod pace;

/// What there is to guess with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Draft<N> {
    /// Nothing is guessed.
    #[default]
    Nothing,
    /// What followed the last few tokens when they stood in the text before.
    Prompt,
    /// A smaller model with the same vocabulary.
    Network(N),
}
