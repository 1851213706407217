//! `tokenizer.json` of a BPE tokenizer, read in one go. The crate `tokenizers` keeps
//! a copy of whatever it has not made out yet, the vocabulary and the merges with it;
//! here each part is what it says it is. Whatever this does not know, it leaves to
//! the crate: it says nothing of what is wrong with a file.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer,
};

/// The file. Truncation and padding belong to training and are not read.
#[derive(serde::Deserialize)]
struct Description {
    #[serde(rename = "version")]
    _version: Option<Version>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    model: Model,
}

#[derive(serde::Deserialize)]
enum Version {
    #[serde(rename = "1.0")]
    First,
}

#[derive(serde::Deserialize)]
struct Model {
    #[serde(rename = "type")]
    _kind: Kind,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Vocab,
    merges: Merges,
}

#[derive(serde::Deserialize)]
enum Kind {
    #[serde(rename = "BPE")]
    Bpe,
}

/// The merges, the first to be made first.
struct Merges(Vec<(String, String)>);

/// One of them: a pair, or as older files have it both parts with a space between.
struct Merge((String, String));

/// The tokenizer that `text` describes; nothing if it is none of this kind or
/// anything about it is unexpected.
pub(super) fn read(text: &str) -> Option<Tokenizer> {
    let Description {
        _version,
        added_tokens,
        normalizer,
        pre_tokenizer,
        post_processor,
        decoder,
        model,
    } = serde_json::from_str(text).ok()?;
    let mut tokenizer = Tokenizer::new(model.build()?);
    tokenizer.with_normalizer(normalizer).ok()?;
    tokenizer.with_pre_tokenizer(pre_tokenizer);
    tokenizer.with_post_processor(post_processor);
    tokenizer.with_decoder(decoder);
    tokenizer.add_tokens(added_tokens).ok()?;
    Some(tokenizer)
}

impl Model {
    fn build(self) -> Option<BPE> {
        let mut builder = BPE::builder().vocab_and_merges(self.vocab, self.merges.0);
        if let Some(dropout) = self.dropout {
            builder = builder.dropout(dropout);
        }
        if let Some(unknown) = self.unk_token {
            builder = builder.unk_token(unknown);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        let builder = builder
            .fuse_unk(self.fuse_unk.unwrap_or_default())
            .byte_fallback(self.byte_fallback.unwrap_or_default())
            .ignore_merges(self.ignore_merges.unwrap_or_default());
        builder.build().ok()
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let merges = Vec::<Merge>::deserialize(deserializer)?;
        Ok(Self(merges.into_iter().map(|Merge(pair)| pair).collect()))
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a pair of words")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Merge, E> {
        match text.split_once(' ') {
            Some((left, right)) if !right.contains(' ') && !text.starts_with("#version") => {
                Ok(Merge((left.to_owned(), right.to_owned())))
            }
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Merge, A::Error> {
        let pair = (parts.next_element()?, parts.next_element()?);
        match (pair, parts.next_element::<de::IgnoredAny>()?) {
            ((Some(left), Some(right)), None) => Ok(Merge((left, right))),
            _ => Err(de::Error::invalid_length(0, &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::engine::tokenizer::tests::kinds;

    /// What the crate reads itself, without truncation and padding.
    fn read_by_crate(text: &str) -> Option<String> {
        let mut tokenizer: Tokenizer = text.parse().ok()?;
        tokenizer.with_truncation(None).ok()?;
        tokenizer.with_padding(None);
        tokenizer.to_string(false).ok()
    }

    #[test]
    fn it_is_the_tokenizer_that_the_crate_reads() {
        let mut descriptions: Vec<(&str, Value)> = kinds();
        let (_, mut legacy) = descriptions[0].clone();
        for merge in legacy["model"]["merges"].as_array_mut().unwrap() {
            *merge = json!(format!(
                "{} {}",
                merge[0].as_str().unwrap(),
                merge[1].as_str().unwrap()
            ));
        }
        legacy["model"]["dropout"] = json!(0.5);
        legacy["model"]["end_of_word_suffix"] = json!("</w>");
        legacy["model"]["ignore_merges"] = json!(true);
        legacy.as_object_mut().unwrap().remove("version");
        descriptions.push(("older", legacy));
        for (name, description) in descriptions {
            let text = description.to_string();
            let read = read(&text).map(|tokenizer| tokenizer.to_string(false).unwrap());
            assert!(read.is_some(), "{name} is left to the crate");
            assert_eq!(read, read_by_crate(&text), "{name}");
        }
    }

    #[test]
    fn what_it_does_not_know_is_left_to_the_crate() {
        let check = |change: fn(&mut Value)| {
            let (_, mut description) = kinds().swap_remove(0);
            change(&mut description);
            let text = description.to_string();
            assert!(read(&text).is_none(), "{text:.200}");
        };
        check(|d| d["version"] = json!("2.0"));
        check(|d| d["model"]["type"] = json!("WordLevel"));
        check(|d| drop(d["model"].as_object_mut().unwrap().remove("type")));
        check(|d| d["model"]["merges"][0] = json!(["a", "b", "c"]));
        check(|d| d["model"]["merges"][0] = json!(["a"]));
        check(|d| d["model"]["merges"][0] = json!("#version: 0.2"));
        check(|d| d["model"]["merges"][0] = json!("a  b"));
        check(|d| d["model"]["merges"][0] = json!(["not", "there"]));
        check(|d| d["model"]["dropout"] = json!(2));
    }
}
