use super::*;

/// A trace of its own format.
fn parse(text: &str) -> Result<Trace, TraceError> {
    super::parse(text, Pace::AsRecorded)
}

/// A head and one model, in two lines.
const HEAD: &str = "{\"kind\":\"trace\",\"version\":1,\"budget\":\"16GB\"}
{\"kind\":\"model\",\"name\":\"a\",\"memory\":\"10GB\",\"load_ms\":4000,\"prefill_per_second\":100,\"decode_per_second\":10}\n";

#[test]
fn requests_and_agents_become_what_they_say() {
    let text = format!(
        "{HEAD}\n{}\n{}\n",
        r#"{"kind":"request","at_ms":7,"model":"a","caller":"x","prompt_tokens":200,"output_tokens":30,"priority":"low"}"#,
        r#"{"kind":"agent","caller":"y","rounds":3,"steps":[{"model":"a","think_ms":5,"times":2,"prompt_tokens":1,"output_tokens":2,"others":["a"]}]}"#,
    );
    let trace = parse(&text).expect("a trace");
    assert_eq!(trace.budget, Some(ByteSize(16_000_000_000)));
    assert_eq!(trace.models[0].load, Duration::from_secs(4));
    let [request, agent] = trace.agents.as_slice() else {
        panic!("{trace:?}");
    };
    assert_eq!(request.start, Duration::from_millis(7));
    assert_eq!((request.rounds, request.priority), (1, Priority::Low));
    let work = trace.models[0].takes(request.steps[0].work);
    assert_eq!(work, Duration::from_secs(5));
    assert_eq!((agent.rounds, agent.steps.len()), (3, 2));
    assert_eq!(agent.steps[1].think, Duration::from_millis(5));
    assert_eq!(
        (&request.steps[0].others, &agent.steps[1].others),
        (&vec![], &vec![0])
    );
}

#[test]
fn an_error_names_line_and_field() {
    let check = |line: &str, expected: &str| {
        let got = parse(&format!("{HEAD}{line}\n")).map_err(|error| error.to_string());
        assert_eq!(got, Err(expected.to_owned()), "{line}");
    };
    check(
        "{",
        "line 3: not a JSON object: EOF while parsing an object at line 1 column 1",
    );
    check(
        "[]",
        "line 3: not a JSON object: invalid type: sequence, expected a map at line 1 column 0",
    );
    check("{}", "line 3: kind is missing");
    check(
        r#"{"kind":"agents"}"#,
        "line 3: kind: expected trace, model, request or agent, found \"agents\"",
    );
    check(
        r#"{"kind":"trace","version":1}"#,
        "line 3: the kind \"trace\" stands in the first line, not in line 3",
    );
    check(
        r#"{"kind":"model","name":"b"}"#,
        "line 3: memory is missing",
    );
    check(
        r#"{"kind":"model","name":"b","memory":"10"}"#,
        "line 3: memory: expected a size such as \"12GB\", found \"10\"",
    );
    check(
        r#"{"kind":"model","name":"a","memory":"1GB"}"#,
        "line 3: the model \"a\" stands twice",
    );
    check(
        r#"{"kind":"model","name":"b","memory":"1GB","decode_per_second":0}"#,
        "line 3: decode_per_second: expected a number from 0.001 to 1000000000, found 0",
    );
    let request = |rest: &str| format!("{{\"kind\":\"request\",\"caller\":\"x\",{rest}}}");
    check(&request(r#""model":"a""#), "line 3: at_ms is missing");
    check(
        &request(r#""at_ms":-1,"model":"a""#),
        "line 3: at_ms: expected a whole number up to 31622400000, found -1",
    );
    check(
        &request(r#""at_ms":1,"model":"z","prompt_tokens":1,"output_tokens":1"#),
        "line 3: model: no line before this one describes \"z\"",
    );
    check(
        &request(r#""at_ms":1,"model":"a","prompt_tokens":"1","output_tokens":1"#),
        "line 3: prompt_tokens: expected a whole number up to 100000000, found \"1\"",
    );
    check(
        &request(r#""at_ms":1,"model":"a","prompt_tokens":1,"output_tokens":1,"prompt":"secret""#),
        "line 3: \"prompt\" is not a field of this record",
    );
    check(
        &request(
            r#""at_ms":1,"priority":"urgent","model":"a","prompt_tokens":1,"output_tokens":1"#,
        ),
        "line 3: priority: expected high, normal or low, found \"urgent\"",
    );
    check(
        r#"{"kind":"agent","caller":"x","steps":[]}"#,
        "line 3: steps: expected a list of objects, found []",
    );
    check("", "the trace has no requests");
    check(
        r#"{"kind":"request","at_ms":1,"caller":"x","model":"a","others":["b"]}"#,
        "line 3: others: no line before this one describes \"b\"",
    );
    check(
        r#"{"kind":"request","at_ms":1,"caller":"x","model":"a","others":"a"}"#,
        "line 3: others: expected a list of texts, found \"a\"",
    );
    check(
        r#"{"kind":"agent","caller":"x","rounds":1000000,"steps":[{"model":"a","times":2,"prompt_tokens":1,"output_tokens":1}]}"#,
        "the trace has more than 1000000 requests, repetitions counted",
    );
}

#[test]
fn a_head_says_which_version() {
    let check = |line: &str, expected: &str| {
        let got = parse(line).map_err(|error| error.to_string());
        assert_eq!(got, Err(expected.to_owned()), "{line}");
    };
    check("", "the trace has no requests");
    check(r#"{"kind":"trace"}"#, "line 1: version is missing");
    check(
        r#"{"kind":"trace","version":2}"#,
        "line 1: version: this program reads 1, found 2",
    );
    check(
        r#"{"kind":"model","name":"a","memory":"1GB"}"#,
        "line 1: the first record has the kind \"trace\"",
    );
}
