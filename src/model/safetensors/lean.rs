//! Headers as everybody writes them, in one pass over their bytes. It takes less than
//! JSON allows and refuses nothing: whatever is not plainly right is left to `json`,
//! which reads all of JSON and says what is wrong. A header costs a cache scan most of
//! its time, and the general reader is several times slower.

use std::collections::HashSet;

use super::{Dtype, MOST_TENSORS};

/// Longest header that is tried, bytes: twice the largest published. A longer one is
/// read once and not twice.
const LONGEST: usize = 4_000_000;

/// Bytes of an entry as they are, about.
const USUAL_ENTRY: usize = 96;

/// The bytes that stand in a text as themselves: visible ASCII without quotes and
/// backslashes.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    plain
};

/// Most dimensions of a shape here.
const MOST_DIMENSIONS: usize = 8;

/// An entry that has been checked by itself.
#[derive(Debug)]
pub(super) struct Entry<'t, 's> {
    /// Visible ASCII.
    pub(super) name: &'t [u8],
    pub(super) dtype: Dtype,
    pub(super) shape: &'s [u64],
    /// From the start of the data.
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// What is kept of the entries of a header, each checked by itself. Nothing if the
/// header is not plain: then it may be right or wrong.
pub(super) fn read<'t, T>(text: &'t [u8], keep: impl Fn(&Entry<'t, '_>) -> T) -> Option<Vec<T>> {
    if text.len() > LONGEST {
        return None;
    }
    let mut rest = Rest(text);
    // About one for each entry, and never more than the text can hold.
    let room = (text.len() / USUAL_ENTRY).min(MOST_TENSORS);
    let mut kept = Vec::with_capacity(room);
    let mut names = HashSet::with_capacity(room);
    rest.take(b'{')?;
    if rest.take(b'}').is_some() {
        return rest.end().then_some(kept);
    }
    loop {
        let name = rest.text()?;
        rest.take(b':')?;
        if !names.insert(name) || kept.len() == MOST_TENSORS {
            return None;
        }
        match name {
            b"__metadata__" => rest.metadata()?,
            _ => kept.push(rest.tensor(name, &keep)?),
        }
        if rest.take(b',').is_none() {
            rest.take(b'}')?;
            return rest.end().then_some(kept);
        }
    }
}

/// What has not been read yet.
struct Rest<'t>(&'t [u8]);

impl<'t> Rest<'t> {
    /// This byte, after blanks.
    fn take(&mut self, byte: u8) -> Option<()> {
        // Most headers have none.
        if self.0.first().is_some_and(u8::is_ascii_whitespace) {
            self.blanks();
        }
        let (first, rest) = self.0.split_first()?;
        (*first == byte).then(|| self.0 = rest)
    }

    fn blanks(&mut self) {
        while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    /// Whether nothing follows.
    fn end(&mut self) -> bool {
        self.blanks();
        self.0.is_empty()
    }

    /// A text of visible ASCII without escapes.
    fn text(&mut self) -> Option<&'t [u8]> {
        self.take(b'"')?;
        let is_plain = |byte: &u8| PLAIN[usize::from(*byte)];
        let length = self.0.iter().position(|byte| !is_plain(byte))?;
        let (text, rest) = self.0.split_at(length);
        let [b'"', rest @ ..] = rest else {
            return None;
        };
        self.0 = rest;
        Some(text)
    }

    /// A whole number as JSON writes it.
    fn number(&mut self) -> Option<u64> {
        self.blanks();
        let (mut number, mut digits) = (0_u64, 0);
        while let Some(digit) = self.0.get(digits).filter(|byte| byte.is_ascii_digit()) {
            let more = number.checked_mul(10)?;
            number = more.checked_add(u64::from(digit - b'0'))?;
            digits += 1;
        }
        let (digits, rest) = self.0.split_at(digits);
        let has_zero = digits.len() > 1 && digits[0] == b'0';
        if digits.is_empty() || has_zero || matches!(rest, [b'.' | b'e' | b'E', ..]) {
            return None;
        }
        self.0 = rest;
        Some(number)
    }

    /// Numbers in brackets; answers how many of the slots they fill.
    fn numbers(&mut self, slots: &mut [u64]) -> Option<usize> {
        self.take(b'[')?;
        if self.take(b']').is_some() {
            return Some(0);
        }
        for (index, slot) in slots.iter_mut().enumerate() {
            *slot = self.number()?;
            if self.take(b',').is_none() {
                self.take(b']')?;
                return Some(index + 1);
            }
        }
        None
    }

    /// Texts under names, which mean nothing here.
    fn metadata(&mut self) -> Option<()> {
        self.take(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            self.text()?;
            self.take(b':')?;
            self.text()?;
            if self.take(b',').is_none() {
                return self.take(b'}');
            }
        }
    }

    /// An entry with its three keys, each once, whose shape needs what its offsets span.
    fn tensor<T>(&mut self, name: &'t [u8], keep: &impl Fn(&Entry<'t, '_>) -> T) -> Option<T> {
        let (mut dtype, mut dimensions, mut span) = (None, None, None);
        let mut shape = [0_u64; MOST_DIMENSIONS];
        self.take(b'{')?;
        loop {
            let key = self.text()?;
            self.take(b':')?;
            match key {
                b"dtype" if dtype.is_none() => dtype = Some(Dtype::parse(self.text()?)?),
                b"shape" if dimensions.is_none() => dimensions = Some(self.numbers(&mut shape)?),
                b"data_offsets" if span.is_none() => {
                    let mut offsets = [0; 2];
                    let count = self.numbers(&mut offsets)?;
                    span = (count == 2).then_some((offsets[0], offsets[1]));
                    span?;
                }
                _ => return None,
            }
            if self.take(b',').is_none() {
                self.take(b'}')?;
                break;
            }
        }
        let (dtype, shape, (start, end)) = (dtype?, &shape[..dimensions?], span?);
        let needed = shape
            .iter()
            .try_fold(dtype.bytes(), |product, &size| product.checked_mul(size))?;
        let len = end.checked_sub(start).filter(|len| *len == needed)?;
        Some(keep(&Entry {
            name,
            dtype,
            shape,
            offset: start,
            len,
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{TensorInfo, json};
    use super::*;

    /// What the general reader makes of a header.
    fn general(text: &str) -> Option<Vec<TensorInfo>> {
        json::tensors(text.as_bytes()).ok()
    }

    /// Whether a header is taken; what is taken is what the general reader takes.
    fn takes(text: &str) -> bool {
        let taken = read(text.as_bytes(), TensorInfo::of);
        if taken.is_some() {
            assert_eq!(taken, general(text), "{text}");
        }
        taken.is_some()
    }

    #[test]
    fn what_is_plain_is_taken_and_everything_else_left() {
        let one = |entry: &str| format!("{{\"a\": {entry}}}");
        let good = r#"{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}"#;
        let check = |text: &str, taken: bool| assert_eq!(takes(text), taken, "{text}");
        check("{}", true);
        check(" { }  \n", true);
        check(&one(good), true);
        check(
            r#"{"__metadata__":{"format":"pt"},"w":{"data_offsets":[4,8],"dtype":"F32","shape":[]},"v":{"dtype":"U8","shape":[0,7],"data_offsets":[0,0]}}   "#,
            true,
        );
        for other in [
            "",
            "{",
            "[]",
            "{},",
            "{} {}",
            r#"{"a": 1}"#,
            r#"{"a": {}}"#,
            r#"{"a": {}, }"#,
            r#"{"a\u0041": {}}"#,
            r#"{"__metadata__": {"a": 1}}"#,
            r#"{"__metadata__": [], "__metadata__": []}"#,
        ] {
            check(other, false);
        }
        let with = |old: &str, new: &str| one(&good.replacen(old, new, 1));
        for (old, new) in [
            ("F32", "Q9"),
            ("F32", "f32"),
            ("F32", "F3\\u0032"),
            ("3]", "03]"),
            ("3]", "3.0]"),
            ("3]", "3e0]"),
            ("3]", "-3]"),
            ("3]", "4]"),
            ("3]", "3,]"),
            ("3]", "18446744073709551616]"),
            ("3]", "18446744073709551615]"),
            ("[0, 24]", "[24, 0]"),
            ("[0, 24]", "[0, 24, 24]"),
            ("[0, 24]", "[0]"),
            ("[0, 24]", "[0, 24], \"x\": 1"),
            ("\"shape\"", "\"dtype\": \"F32\", \"shape\""),
            ("\"dtype\": \"F32\", ", ""),
            ("}", ""),
        ] {
            check(&with(old, new), false);
        }
        let twice = format!("{{\"a\": {good}, \"a\": {good}}}");
        check(&twice, false);
        let not_ascii = one(good).replace("\"a\"", "\"ä\"");
        check(&not_ascii, false);
        assert!(general(&not_ascii).is_some());
    }

    #[test]
    fn what_this_project_writes_is_plain() {
        let shape = [2_u64, 3];
        let file = super::super::header_for([("a.b", Dtype::Bf16, &shape[..])].into_iter());
        let length = usize::try_from(u64::from_le_bytes(file[..8].try_into().expect("eight")));
        let text = &file[8..8 + length.expect("short")];
        assert!(takes(std::str::from_utf8(text).expect("text")));
    }

    proptest! {
        /// Two readers never see two things, however a good header is bent.
        #[test]
        fn a_bent_header_is_left_or_read_as_ever(at in 0_usize..140, with in "[ -~]{0,2}", cut in 0_usize..3) {
            let mut text = r#"{"__metadata__":{"f":"p"},"a":{"dtype":"I8","shape":[1,4],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}}"#.to_owned();
            let at = at.min(text.len());
            let end = (at + cut).min(text.len());
            text.replace_range(at..end, &with);
            takes(&text);
        }
    }
}
