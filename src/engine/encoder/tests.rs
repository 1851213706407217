use super::*;

/// Its vector of a text is the sum of the text's tokens.
struct Summing;

impl Encoder for Summing {
    fn vocabulary(&self) -> usize {
        100
    }

    fn size(&self) -> usize {
        1
    }

    fn encode(&mut self, batch: &[&Text]) -> Result<Vec<Vec<f32>>, EngineError> {
        let sum = |text: &&Text| {
            let text = &text.tokens;
            assert!(!text.contains(&13), "as the test asks");
            match text.contains(&99) {
                true => Err(EngineError::Device("99".to_owned())),
                false => Ok(vec![text.iter().sum::<u32>() as f32]),
            }
        };
        batch.iter().map(sum).collect()
    }

    fn bytes_held(&self) -> u64 {
        5
    }

    fn device(&self) -> (&'static str, &'static str) {
        ("cpu", "float32")
    }

    fn load_times(&self) -> LoadTimes {
        LoadTimes::default()
    }
}

#[tokio::test]
async fn texts_become_vectors_until_the_last_handle_is_gone() {
    let (handle, ended) = Handle::start(|| Ok(Summing)).expect("a thread");
    assert_eq!((handle.facts().size, handle.facts().bytes_held), (1, 5));
    let vectors = handle.encode(vec![vec![1, 2].into(), vec![3].into()]).await;
    assert_eq!(vectors, Ok(vec![vec![3.0], vec![3.0]]));
    assert_eq!(handle.encode(Vec::new()).await, Ok(Vec::new()));
    let failed = handle.encode(vec![vec![99].into()]).await;
    assert_eq!(failed, Err(EngineError::Device("99".to_owned())));
    assert_eq!(handle.counted(), Counted { open: 0, read: 4 });
    drop(handle);
    assert!(ended.await.is_err(), "the thread has ended");
}

#[tokio::test]
async fn a_panic_ends_the_thread_and_is_heard() {
    let (handle, ended) = Handle::start(|| Ok(Summing)).expect("a thread");
    assert!(handle.encode(vec![vec![13].into()]).await.is_err());
    assert!(ended.await.is_err());
}

#[test]
fn what_cannot_be_built_is_told() {
    let failed = Handle::start(|| Err::<Summing, _>(EngineError::Unsupported("no".to_owned())));
    assert_eq!(
        failed.err(),
        Some(EngineError::Unsupported("no".to_owned()))
    );
}
