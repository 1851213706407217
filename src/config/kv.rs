//! In which form keys and values are kept, and what that takes. Pure.

/// `kv_format`: the form of what a sequence's cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// Numbers of the format in which the engine computes.
    #[default]
    Auto,
    /// `8bit`: packed as mlx-lm packs them, integers of 8 bits with a scale and a bias
    /// for each group.
    EightBit,
    /// `4bit`
    FourBit,
}

impl KvFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::EightBit, Self::FourBit];

    /// The word in `models.yaml` and on the worker's command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::EightBit => "8bit",
            Self::FourBit => "4bit",
        }
    }

    /// Bits of an integer; nothing if numbers are not packed.
    pub fn bits(self) -> Option<u64> {
        match self {
            Self::Auto => None,
            Self::EightBit => Some(8),
            Self::FourBit => Some(4),
        }
    }

    /// How many numbers of a head of `size` share a scale: 64 as mlx-lm has it, or 32
    /// where heads are no multiple of that; nothing if they cannot be packed.
    pub fn group(size: u64) -> Option<u64> {
        [64, 32]
            .into_iter()
            .find(|group| size > 0 && size.is_multiple_of(*group))
    }

    /// Bytes of one head's keys or values for one token, of `size` numbers whose format
    /// takes `number` bytes each.
    pub fn bytes(self, size: u64, number: u64) -> u64 {
        match (self.bits(), Self::group(size)) {
            (Some(bits), Some(group)) => size / 8 * bits + size / group * 2 * number,
            _ => size.saturating_mul(number),
        }
    }
}

impl std::str::FromStr for KvFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| format!("expected auto, 8bit or 4bit, found \"{text}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_rows_take_their_integers_and_two_numbers_for_each_group() {
        let check = |format: KvFormat, size: u64, number: u64, expected: u64| {
            assert_eq!(format.bytes(size, number), expected, "{format:?} {size}");
        };
        check(KvFormat::Auto, 64, 4, 256);
        check(KvFormat::EightBit, 64, 4, 64 + 8);
        check(KvFormat::FourBit, 128, 2, 64 + 8);
        check(KvFormat::FourBit, 96, 2, 48 + 12);
        // A head that cannot be packed: such a model is not loaded.
        check(KvFormat::EightBit, 80, 2, 160);
        check(KvFormat::Auto, u64::MAX, 4, u64::MAX);
    }
}
