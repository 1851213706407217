use super::*;

#[test]
fn takes_the_first_of_the_most_likely_at_temperature_zero() {
    let mut sampler = Sampler::new(Sampling {
        temperature: 0.0,
        ..Sampling::default()
    });
    let sampled = sampler.sample(&mut [0.0, 2.0, 2.0, 1.0], 2, false);
    assert_eq!(sampled.token, 1);
    let ids: Vec<u32> = sampled.top.iter().map(|t| t.0).collect();
    assert_eq!(ids, [1, 2]);
}
