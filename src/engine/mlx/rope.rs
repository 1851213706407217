//! Rotary position embeddings and their scalings: how fast each pair of a head
//! turns, and the turning itself. It knows no weights and no cache.
//!
//! Rotation by position: Su et al., "RoFormer" (arXiv 2104.09864). Llama pairs
//! the first half of a head with its second half; `traditional` pairs neighbours.

mod scaling;

use mlx_rs::error::Result;
use mlx_rs::{Array, fast};

pub use scaling::{Frequencies, Scaling};

use super::device::Device;

/// The rotation of one architecture.
pub struct Rope {
    /// Numbers of a head that turn.
    dimensions: i32,
    /// Pairs are neighbours instead of halves.
    traditional: bool,
    frequencies: Frequencies,
    /// One over each frequency, the form of MLX's own kernel.
    periods: Array,
    /// On a GPU MLX's kernel turns by positions. On a CPU that would build the
    /// same tables again in each layer, so our own takes them ready.
    device: Device,
}

/// The rotation for the rows of one pass, made once and used in every layer.
pub enum Turn {
    /// Cosines and sines, each `[rows, 1, dimensions / 2]`.
    Tables(Array, Array),
    /// Positions of the first row of each sequence, `[sequences]`; of every row where
    /// they do not bring as many each.
    Offsets(Array),
}

impl Rope {
    /// A rotation of the first `dimensions` of each head.
    pub fn new(
        dimensions: i32,
        traditional: bool,
        frequencies: Frequencies,
        device: Device,
    ) -> Self {
        let periods: Vec<f32> = frequencies.inverse.iter().map(|f| 1.0 / f).collect();
        let periods = Array::from_slice(&periods, &[dimensions / 2]);
        Self {
            dimensions,
            traditional,
            frequencies,
            periods,
            device,
        }
    }

    /// Whether pairs are neighbours instead of halves.
    #[cfg(target_os = "linux")]
    pub fn is_traditional(&self) -> bool {
        self.traditional
    }

    /// Prepares the turn of sequences, each by the place at which it continues and how many
    /// rows it brings.
    pub fn turn(&self, sequences: impl Iterator<Item = (usize, usize)> + Clone) -> Turn {
        let positions = sequences
            .clone()
            .flat_map(|(first, rows)| first..first + rows);
        if self.device.is_own() {
            return self.turn_tables(positions);
        }
        let mut each = sequences.clone().map(|(_, rows)| rows);
        let first = each.next();
        let offsets: Vec<i32> = match each.all(|rows| Some(rows) == first) {
            true => sequences.map(|(first, _)| first as i32).collect(),
            // The kernel wants as many rows of each: every row is one by itself.
            false => positions.map(|position| position as i32).collect(),
        };
        Turn::Offsets(Array::from_slice(&offsets, &[offsets.len() as i32]))
    }

    fn turn_tables(&self, positions: impl Iterator<Item = usize>) -> Turn {
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for position in positions {
            for frequency in &self.frequencies.inverse {
                let (sine, cosine) = (position as f32 * frequency).sin_cos();
                cosines.push(cosine * self.frequencies.magnitude);
                sines.push(sine * self.frequencies.magnitude);
            }
        }
        let half = self.dimensions / 2;
        let shape = [cosines.len() as i32 / half, 1, half];
        Turn::Tables(
            Array::from_slice(&cosines, &shape),
            Array::from_slice(&sines, &shape),
        )
    }

    /// Turns `x`, `[rows, heads, head]`, the rows of all sequences one after
    /// the other.
    pub fn apply(&self, x: &Array, turn: &Turn) -> Result<Array> {
        match turn {
            Turn::Tables(cosines, sines) => self.device.rotate(x, cosines, sines, self.traditional),
            Turn::Offsets(offsets) => self.apply_kernel(x, offsets),
        }
    }

    fn apply_kernel(&self, x: &Array, offsets: &Array) -> Result<Array> {
        let shape = x.shape();
        let (rows, heads, head) = (shape[0], shape[1], shape[2]);
        let sequences = offsets.dim(0);
        let split = x
            .reshape(&[sequences, rows / sequences, heads, head])?
            .swap_axes(1, 2)?;
        let scaled = if self.frequencies.magnitude == 1.0 {
            split
        } else {
            let magnitude = Array::from_f32(self.frequencies.magnitude).as_dtype(x.dtype())?;
            split.multiply(magnitude)?
        };
        let turned = fast::rope_dynamic(
            scaled,
            self.dimensions,
            self.traditional,
            None,
            1.0,
            offsets,
            &self.periods,
        )?;
        turned.swap_axes(1, 2)?.reshape(&[rows, heads, head])
    }
}
