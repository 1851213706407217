//! What is counted inside messages, tools and prompts while the parser passes
//! over them. Each occurrence counts, so a key that stands twice hides nothing.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::api::error::ApiError;
use crate::api::fields::{TEXTS, invalid};
use crate::config::Counts;
use crate::dispatch::json::Text;

/// A place in a body where something is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// `messages`
    Messages,
    /// `messages[…]`
    Message,
    /// `messages[…].content`
    Content,
    /// `messages[…].content[…]`
    ContentPart,
    /// `messages[…].content[…].image_url` and the like
    Medium,
    /// `messages[…].content[…].image_url.url` and the like
    Address,
    /// `messages[…].tool_calls`
    ToolCalls,
    /// `messages[…].tool_calls[…]`
    ToolCall,
    /// `tools`
    Tools,
    /// `tools[…]`
    Tool,
    /// `prompt`
    Prompt,
    /// `prompt[…]`
    PromptPart,
    /// `input`
    Input,
    /// `input[…]`
    InputText,
    /// `documents`
    Documents,
    /// `documents[…]`
    Document,
    /// Anything else.
    Other,
}

/// What has been counted.
pub(super) struct Tally<'c> {
    counts: &'c Counts,
    messages: usize,
    images: usize,
    tools: usize,
    tool_calls: usize,
    inputs: usize,
    /// Prompts, beyond a single one.
    pub prompts: usize,
    /// Why reading ended early.
    pub refusal: Option<ApiError>,
}

impl<'c> Tally<'c> {
    pub fn new(counts: &'c Counts) -> Self {
        Self {
            counts,
            messages: 0,
            images: 0,
            tools: 0,
            tool_calls: 0,
            inputs: 0,
            prompts: 0,
            refusal: None,
        }
    }

    /// Keeps the refusal and ends the reading.
    pub fn refuse<E: Error>(&mut self, refusal: ApiError) -> E {
        let ended = E::custom("refused");
        self.refusal = Some(refusal);
        ended
    }

    /// Counts what begins here.
    fn enter<E: Error>(&mut self, spot: Spot) -> Result<(), E> {
        let counts = self.counts;
        let (count, most, field, what) = match spot {
            Spot::Message => (&mut self.messages, counts.messages, "messages", "messages"),
            Spot::Medium => (
                &mut self.images,
                counts.images,
                "messages",
                "images and other parts that are no text",
            ),
            Spot::Tool => (&mut self.tools, counts.tools, "tools", "tools"),
            Spot::ToolCall => (
                &mut self.tool_calls,
                counts.tool_calls,
                "messages",
                "tool calls",
            ),
            Spot::InputText => (&mut self.inputs, counts.inputs, "input", "texts"),
            Spot::Document => (&mut self.inputs, counts.inputs, "documents", "documents"),
            _ => return Ok(()),
        };
        *count += 1;
        if *count <= most {
            return Ok(());
        }
        let message = format!("{field}: expected at most {most} {what}");
        Err(self.refuse(invalid(field, message)))
    }

    /// An image or the like must be in the request itself: nothing is fetched.
    fn address<E: Error>(&mut self, url: &str) -> Result<(), E> {
        let param = format!("messages[{}].content", self.messages.saturating_sub(1));
        let scheme = url.get(..5).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("data:") {
            let message = format!("{param}: expected a data: URL, because nothing is fetched");
            return Err(self.refuse(invalid(param, message)));
        }
        let (head, data) = url.split_once(',').unwrap_or((url, ""));
        let size = match head.ends_with(";base64") {
            // Four characters are three bytes (RFC 4648, section 4).
            true => data.len() / 4 * 3,
            false => data.len(),
        };
        let most = self.counts.image_size;
        if size as u64 <= most.0 {
            return Ok(());
        }
        let message = format!("{param}: expected at most {most} in one part");
        Err(self.refuse(invalid(param, message)))
    }

    /// A value that holds no others.
    fn scalar<E: Error>(&mut self, spot: Spot, kind: &str) -> Result<(), E> {
        let field = match spot {
            Spot::Messages => "messages",
            Spot::Tools => "tools",
            Spot::Documents => "documents",
            Spot::Input => return Err(self.no_text(kind)),
            Spot::InputText => return Err(self.no_text(kind)),
            _ => return Ok(()),
        };
        let message = format!("{field}: expected an array, found {kind}");
        Err(self.refuse(invalid(field, message)))
    }

    /// What stands where a text has to. Some clients send token ids, of a vocabulary
    /// that the model does not have.
    fn no_text<E: Error>(&mut self, kind: &str) -> E {
        let message = format!(
            "input: expected {TEXTS}, found {kind}; token ids are of another vocabulary \
             (LangChain: check_embedding_ctx_length=False)"
        );
        self.refuse(invalid("input", message))
    }

    /// A string.
    fn text<E: Error>(&mut self, spot: Spot, text: &str) -> Result<(), E> {
        match spot {
            Spot::Medium | Spot::Address => self.address(text),
            Spot::PromptPart => {
                self.prompts += 1;
                Ok(())
            }
            Spot::Input | Spot::InputText => Ok(()),
            spot => self.scalar(spot, "a string"),
        }
    }
}

impl Spot {
    /// What an element is here.
    fn element(self) -> Self {
        match self {
            Self::Messages => Self::Message,
            Self::Content => Self::ContentPart,
            Self::ToolCalls => Self::ToolCall,
            Self::Tools => Self::Tool,
            Self::Prompt => Self::PromptPart,
            Self::Input => Self::InputText,
            Self::Documents => Self::Document,
            _ => Self::Other,
        }
    }

    /// What the value of a key is here.
    fn member(self, key: &str) -> Self {
        match (self, key) {
            (Self::Message, "content") => Self::Content,
            (Self::Message, "tool_calls") => Self::ToolCalls,
            (
                Self::ContentPart,
                "image_url" | "image" | "audio_url" | "video_url" | "input_audio" | "file",
            ) => Self::Medium,
            (Self::Medium, "url") => Self::Address,
            _ => Self::Other,
        }
    }

    /// Whether nothing inside is counted.
    fn is_leaf(self) -> bool {
        matches!(
            self,
            Self::ToolCall | Self::Tool | Self::Document | Self::Other
        )
    }
}

/// Reads a value at some place.
pub(super) struct Within<'t, 'c> {
    spot: Spot,
    tally: &'t mut Tally<'c>,
}

impl<'t, 'c> Within<'t, 'c> {
    pub fn new(spot: Spot, tally: &'t mut Tally<'c>) -> Self {
        Self { spot, tally }
    }
}

impl<'de> DeserializeSeed<'de> for Within<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        self.tally.enter(self.spot)?;
        match self.spot.is_leaf() {
            true => IgnoredAny::deserialize(json).map(drop),
            false => json.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Within<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.tally.scalar(self.spot, "a boolean")
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.tally.scalar(self.spot, "a number")
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.tally.scalar(self.spot, "a number")
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.tally.scalar(self.spot, "a number")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.tally.text(self.spot, text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if self.spot == Spot::InputText {
            return Err(self.tally.no_text("an array"));
        }
        if self.spot == Spot::PromptPart {
            // One prompt, as token ids.
            self.tally.prompts += 1;
        }
        let element = self.spot.element();
        while list
            .next_element_seed(Within::new(element, self.tally))?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if matches!(
            self.spot,
            Spot::Messages | Spot::Tools | Spot::Input | Spot::InputText | Spot::Documents
        ) {
            return self.tally.scalar(self.spot, "an object");
        }
        while let Some(Text(key)) = map.next_key()? {
            let member = self.spot.member(&key);
            map.next_value_seed(Within::new(member, self.tally))?;
        }
        Ok(())
    }
}
