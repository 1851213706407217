//! The text of `models.yaml` to a tree in which every key and value knows its
//! place and every duplicate is still there. The only file that names the YAML
//! library. What the values mean is the business of `walk`.
//!
//! Of YAML this takes mappings, lists and scalars, in block or flow form.
//! Anchors, aliases, tags, merge keys and further documents are refused: no
//! configuration needs them, and they are how a small file becomes a large one.
//! A scalar stays text here, however it looks; only an empty one, `~` and `null`
//! without quotes are nothing.

mod syntax;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::problem::{Place, Problem, lines_of};

/// Largest file, bytes.
pub const LARGEST: usize = 1_000_000;

/// Deepest nesting of mappings and lists.
const DEEPEST: usize = 64;

/// Most keys and values of one file.
const MOST_NODES: usize = 50_000;

/// What some editors put before UTF-8 text. It means nothing.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// Most problems of one text that are kept.
const MOST_PROBLEMS: usize = 100;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins; for a value that is not there, the place of its key.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// What a value is, before it means anything.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Nothing,
    /// Any other scalar, with quotes and escapes taken away.
    Text(String),
    /// A list, and whether it is written in brackets.
    List {
        /// Its items.
        items: Vec<Node>,
        /// `[a, b]` rather than lines with `-`.
        flow: bool,
    },
    /// A mapping, in the order of the file, duplicates kept.
    Map(Vec<Pair>),
    /// Something that has been reported already.
    Refused,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The key as text.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// The value.
    pub node: Node,
}

/// Reads a text. The tree is there unless the text is no YAML at all; with
/// problems the tree still serves to find more of them.
pub fn parse(text: &str) -> (Option<Node>, Vec<Problem>) {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    if let Err(problem) = check_text(text) {
        return (None, vec![problem]);
    }
    let mut builder = Builder::new(text);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((event, span)) => builder.on(event, span),
            Err(error) => Err(syntax::problem(
                text,
                error.marker().line(),
                error.marker().col() + 1,
                error.info(),
            )),
        };
        match step {
            Ok(true) => {}
            Ok(false) => break,
            Err(problem) => {
                builder.problems.push(problem);
                return (None, builder.problems);
            }
        }
    }
    let nothing = Node {
        place: Place::default(),
        value: Value::Nothing,
    };
    (Some(builder.root.unwrap_or(nothing)), builder.problems)
}

/// What the YAML library would take for an end or a line break, and what no
/// editor shows, is refused before it is read.
fn check_text(text: &str) -> Result<(), Problem> {
    if text.len() > LARGEST {
        return Err(Problem::whole(format!(
            "expected at most {LARGEST} bytes, found {}",
            text.len()
        )));
    }
    for (index, line) in lines_of(text).enumerate() {
        let fits = |c: char| c == '\t' || !c.is_control();
        if let Some((column, stranger)) = line.chars().enumerate().find(|(_, c)| !fits(*c)) {
            let place = Place {
                line: index + 1,
                column: column + 1,
                length: 1,
            };
            let message = format!("expected text, found the control character {stranger:?}");
            return Err(Problem::at(place, message));
        }
    }
    Ok(())
}

fn too_deep(place: Place) -> Problem {
    Problem::at(
        place,
        format!("expected at most {DEEPEST} levels of nesting, found more"),
    )
}

/// A mapping or list that is not complete yet.
enum Frame {
    List {
        place: Place,
        flow: bool,
        items: Vec<Node>,
    },
    Map {
        place: Place,
        pairs: Vec<Pair>,
        key: Option<(String, Place)>,
        /// A key that has been reported: its value is dropped.
        refused: bool,
    },
}

/// Turns events into the tree.
struct Builder<'a> {
    lines: Vec<&'a str>,
    open: Vec<Frame>,
    root: Option<Node>,
    nodes: usize,
    problems: Vec<Problem>,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            lines: lines_of(text).collect(),
            open: Vec::new(),
            root: None,
            nodes: 0,
            problems: Vec::new(),
        }
    }

    /// Takes one event. `Ok(false)` ends the reading; an error makes the tree useless.
    fn on(&mut self, event: Event, span: Span) -> Result<bool, Problem> {
        let place = self.place(span);
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                let message = "expected one document, found a second one";
                let problem = Problem::at(place, message).help("remove this line");
                self.problems.push(problem);
                return Ok(false);
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.marks(place, anchor, tag.as_deref());
                let is_plain = style == ScalarStyle::Plain;
                self.scalar(text.as_ref(), is_plain, span.is_empty(), place)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.marks(place, anchor, tag.as_deref());
                // Only the bracket of the flow form has a length.
                let flow = !span.is_empty();
                self.push(Frame::List {
                    place,
                    flow,
                    items: Vec::new(),
                })?;
            }
            Event::MappingStart(anchor, tag) => {
                self.marks(place, anchor, tag.as_deref());
                self.push(Frame::Map {
                    place,
                    pairs: Vec::new(),
                    key: None,
                    refused: false,
                })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(_) => {
                self.problem(
                    place,
                    "aliases are not supported; expected the value itself",
                );
                self.add(Node {
                    place,
                    value: Value::Refused,
                })?;
            }
            _ => {}
        }
        Ok(true)
    }

    /// A scalar as a key or as a value.
    fn scalar(
        &mut self,
        text: &str,
        is_plain: bool,
        is_absent: bool,
        place: Place,
    ) -> Result<(), Problem> {
        if let Some(Frame::Map { key, refused, .. }) = self.open.last_mut()
            && key.is_none()
            && !*refused
        {
            *key = Some((text.to_owned(), place));
            if is_plain && text == "<<" {
                self.problem(
                    place,
                    "merge keys are not supported; expected the keys themselves",
                );
            }
            return self.count(place);
        }
        let nothing = is_plain && matches!(text, "" | "~" | "null" | "Null" | "NULL");
        let value = match nothing {
            true => Value::Nothing,
            false => Value::Text(text.to_owned()),
        };
        let place = match self.open.last() {
            Some(Frame::Map {
                key: Some((_, key)),
                ..
            }) if nothing && is_absent => *key,
            _ => place,
        };
        self.add(Node { place, value })
    }

    /// Begins a mapping or list.
    fn push(&mut self, frame: Frame) -> Result<(), Problem> {
        let (Frame::List { place, .. } | Frame::Map { place, .. }) = frame;
        if self.open.len() == DEEPEST {
            return Err(too_deep(place));
        }
        self.open.push(frame);
        Ok(())
    }

    /// Ends the mapping or list that was begun last.
    fn close(&mut self) -> Result<(), Problem> {
        match self.open.pop() {
            Some(Frame::List { place, flow, items }) => self.add(Node {
                place,
                value: Value::List { items, flow },
            }),
            Some(Frame::Map { place, pairs, .. }) => self.add(Node {
                place,
                value: Value::Map(pairs),
            }),
            None => Ok(()),
        }
    }

    /// Puts a complete value where it belongs.
    fn add(&mut self, node: Node) -> Result<(), Problem> {
        let place = node.place;
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map {
                pairs,
                key,
                refused,
                ..
            }) => match key.take() {
                Some((key, place)) => pairs.push(Pair { key, place, node }),
                None if *refused => *refused = false,
                None => {
                    *refused = true;
                    self.problem(place, "expected a key, found a list, a mapping or an alias");
                }
            },
        }
        self.count(place)
    }

    /// Bounds the memory of a hostile file.
    fn count(&mut self, place: Place) -> Result<(), Problem> {
        self.nodes += 1;
        match self.nodes > MOST_NODES {
            true => Err(Problem::at(
                place,
                format!("expected at most {MOST_NODES} keys and values, found more"),
            )),
            false => Ok(()),
        }
    }

    /// Reports an anchor or a tag; the value itself is read on.
    fn marks(&mut self, place: Place, anchor: usize, tag: Option<&Tag>) {
        if anchor > 0 {
            self.problem(place, "anchors are not supported; expected the value alone");
        }
        if let Some(tag) = tag {
            let handle = match tag.is_yaml_core_schema() {
                true => "!!",
                false => tag.handle.as_str(),
            };
            let message = format!(
                "tags are not supported; expected the value alone, found {:?}",
                format!("{handle}{}", tag.suffix)
            );
            self.problem(place, &message);
        }
    }

    fn problem(&mut self, place: Place, message: &str) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(Problem::at(place, message));
        }
    }

    /// A span on its first line.
    fn place(&self, span: Span) -> Place {
        let (start, end) = (span.start, span.end);
        let length = match end.line() == start.line() {
            true => end.col().saturating_sub(start.col()),
            false => self.length(start.line()).saturating_sub(start.col()),
        };
        Place {
            line: start.line(),
            column: start.col() + 1,
            length,
        }
    }

    /// The length of a line in characters.
    fn length(&self, line: usize) -> usize {
        let line = self.lines.get(line.saturating_sub(1));
        line.map_or(0, |line| line.chars().count())
    }
}

#[cfg(test)]
mod tests;
