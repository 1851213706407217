//! Which texts are encoded together. Pure: requests stand in a line and take turns;
//! whoever is in front fills the batch first, others of about the same length join,
//! so that little of it is padding.

use std::collections::VecDeque;

use super::Text;

/// A text of a request: the request's number and the text's place in it.
pub(super) type Place = (u64, usize);

/// The requests that are not answered yet, with what answers each.
pub(super) struct Queue<R> {
    tokens: usize,
    next: u64,
    open: VecDeque<Open<R>>,
}

struct Open<R> {
    number: u64,
    texts: Vec<Text>,
    /// Places of texts that are in no batch yet, the shortest first.
    left: Vec<usize>,
    vectors: Vec<Option<Vec<f32>>>,
    reply: R,
}

impl<R> Queue<R> {
    /// An empty one, whose batches have at most so many tokens, padding among them,
    /// unless one text alone has more.
    pub(super) fn new(tokens: usize) -> Self {
        Self {
            tokens,
            next: 0,
            open: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Takes a request in; gives back the reply of one without texts.
    pub(super) fn add(&mut self, texts: Vec<Text>, reply: R) -> Option<R> {
        if texts.is_empty() {
            return Some(reply);
        }
        let mut left: Vec<usize> = (0..texts.len()).collect();
        left.sort_by_key(|place| texts[*place].tokens.len());
        self.next += 1;
        self.open.push_back(Open {
            number: self.next,
            vectors: vec![None; texts.len()],
            texts,
            left,
            reply,
        });
        None
    }

    /// Forgets requests that nobody waits for.
    pub(super) fn drop_where(&mut self, gone: impl Fn(&R) -> bool) {
        self.open.retain(|open| !gone(&open.reply));
    }

    /// The texts to encode next. The request in front goes to the end of the line.
    pub(super) fn batch(&mut self) -> Vec<Place> {
        let Some(mut front) = self.open.pop_front() else {
            return Vec::new();
        };
        let longest = front
            .left
            .last()
            .map_or(0, |place| front.texts[*place].tokens.len());
        let most = (self.tokens / longest.max(1)).max(1);
        let mut batch = Vec::new();
        front.join(&mut batch, longest, most);
        for open in &mut self.open {
            open.join(&mut batch, longest, most);
        }
        self.open.push_back(front);
        batch
    }

    /// A text whose request is still there.
    pub(super) fn text(&self, (number, place): Place) -> Option<&Text> {
        let open = self.open.iter().find(|open| open.number == number);
        open?.texts.get(place)
    }

    /// Takes the vectors of a batch in; gives the requests that are answered by them.
    pub(super) fn told(
        &mut self,
        batch: &[Place],
        vectors: Vec<Vec<f32>>,
    ) -> Vec<(R, Vec<Vec<f32>>)> {
        for ((number, place), vector) in batch.iter().zip(vectors) {
            if let Some(open) = self.open.iter_mut().find(|open| open.number == *number) {
                open.vectors[*place] = Some(vector);
            }
        }
        let is_whole = |open: &Open<R>| open.vectors.iter().all(Option::is_some);
        let done = self.remove(is_whole).into_iter();
        done.map(|open| (open.reply, open.vectors.into_iter().flatten().collect()))
            .collect()
    }

    /// The requests of a batch that came to nothing; they are forgotten.
    pub(super) fn fail(&mut self, batch: &[Place]) -> Vec<R> {
        let hit = |open: &Open<R>| batch.iter().any(|(number, _)| *number == open.number);
        self.remove(hit)
            .into_iter()
            .map(|open| open.reply)
            .collect()
    }

    fn remove(&mut self, which: impl Fn(&Open<R>) -> bool) -> Vec<Open<R>> {
        let (gone, stay): (Vec<_>, VecDeque<_>) = {
            let mut gone = Vec::new();
            let mut stay = VecDeque::new();
            for open in self.open.drain(..) {
                match which(&open) {
                    true => gone.push(open),
                    false => stay.push_back(open),
                }
            }
            (gone, stay)
        };
        self.open = stay;
        gone
    }
}

impl<R> Open<R> {
    /// Puts texts into a batch of at most `most` texts, the longest of which has
    /// `longest` tokens: the longest that fit first, none of less than half of it.
    fn join(&mut self, batch: &mut Vec<Place>, longest: usize, most: usize) {
        let fits = self
            .left
            .partition_point(|place| self.texts[*place].tokens.len() <= longest);
        let alike = self.left[..fits]
            .partition_point(|place| self.texts[*place].tokens.len() * 2 < longest);
        let taken = (fits - alike).min(most - batch.len().min(most));
        let places = self.left.drain(fits - taken..fits);
        batch.extend(places.map(|place| (self.number, place)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of these lengths.
    fn texts(lengths: &[usize]) -> Vec<Text> {
        let text = |length: &usize| vec![7; *length].into();
        lengths.iter().map(text).collect()
    }

    fn sorted(mut batch: Vec<Place>) -> Vec<Place> {
        batch.sort_unstable();
        batch
    }

    #[test]
    fn requests_take_turns_and_share_batches() {
        let mut queue = Queue::new(32);
        assert_eq!(queue.add(texts(&[8, 8, 8, 8, 8, 8]), 'a'), None);
        assert_eq!(queue.add(texts(&[8]), 'b'), None);
        assert_eq!(sorted(queue.batch()), [(1, 2), (1, 3), (1, 4), (1, 5)]);
        // The second request is in front now; the first fills up.
        assert_eq!(sorted(queue.batch()), [(1, 0), (1, 1), (2, 0)]);
        assert_eq!(queue.batch(), []);
    }

    #[test]
    fn a_batch_is_of_like_lengths_and_within_its_tokens() {
        let mut queue = Queue::new(32);
        queue.add(texts(&[1, 16, 7, 8, 100]), 'a');
        assert_eq!(queue.batch(), [(1, 4)], "one that is longer goes alone");
        assert_eq!(sorted(queue.batch()), [(1, 1), (1, 3)]);
        assert_eq!(queue.batch(), [(1, 2)]);
        assert_eq!(queue.batch(), [(1, 0)]);
    }

    #[test]
    fn vectors_come_back_in_the_order_of_the_request() {
        let mut queue = Queue::new(16);
        queue.add(texts(&[1, 8, 4]), 'a');
        assert_eq!(queue.add(Vec::new(), 'x'), Some('x'));
        let mut done = Vec::new();
        while done.is_empty() {
            let batch = queue.batch();
            let vectors = batch.iter().map(|(_, place)| vec![*place as f32]);
            let vectors = vectors.collect();
            done = queue.told(&batch, vectors);
        }
        assert_eq!(done, [('a', vec![vec![0.0], vec![1.0], vec![2.0]])]);
        assert!(queue.is_empty());
    }

    #[test]
    fn who_left_and_whose_batch_failed_is_forgotten() {
        let mut queue = Queue::new(16);
        queue.add(texts(&[2]), 'a');
        queue.add(texts(&[2]), 'b');
        queue.add(texts(&[9]), 'c');
        queue.drop_where(|reply| *reply == 'a');
        let batch = queue.batch();
        assert_eq!(batch, [(2, 0)]);
        assert_eq!(queue.fail(&batch), ['b']);
        assert_eq!(queue.len(), 1);
    }
}
