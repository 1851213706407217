//! A request log as a trace: when each request came, whose it was, how long its
//! engine worked. The log says nothing of what models reserve; the configuration
//! does. What never got a model is left out and counted.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;

use super::trace::{Agent, Model, Step, Trace, TraceError, Work, object};
use crate::pool::Priority;
use crate::units::ByteSize;

/// When the requests of a recording come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As they came, whatever becomes of those before.
    AsRecorded,
    /// Each as long after its caller's former answer as it was recorded.
    AsAnswered,
}

/// What is read of a line of the log; whatever else it says is left aside.
#[derive(Deserialize)]
struct Line {
    time_ms: u64,
    model: Option<String>,
    caller: Option<String>,
    #[serde(default)]
    priority: Option<Priority>,
    #[serde(default)]
    worker: Option<u64>,
    #[serde(default)]
    load_ms: Option<u64>,
    wait_ms: Option<u64>,
    duration_ms: u64,
}

/// One request that got its model.
struct Use {
    at: Duration,
    end: Duration,
    model: usize,
    work: Duration,
    caller: String,
    priority: Priority,
}

/// Reads a log, line by line.
pub(super) fn parse<'a>(
    lines: impl Iterator<Item = (usize, &'a str)>,
    pace: Pace,
) -> Result<Trace, TraceError> {
    let mut trace = Trace {
        is_recorded: true,
        ..Trace::default()
    };
    let mut models = Models::default();
    let mut uses = Vec::new();
    for (number, text) in lines {
        // First as an object, so that what is none is told as such.
        object(number, text)?;
        let line: Line = serde_json::from_str(text).map_err(|error| TraceError::Line {
            line: number,
            reason: format!("not a line of the request log: {error}"),
        })?;
        let (Some(model), Some(wait)) = (&line.model, line.wait_ms) else {
            trace.skipped += 1;
            continue;
        };
        let at = Duration::from_millis(line.time_ms);
        uses.push(Use {
            at,
            end: at + Duration::from_millis(line.duration_ms),
            model: models.index(model, &line),
            work: Duration::from_millis(line.duration_ms.saturating_sub(wait)),
            caller: line.caller.unwrap_or_default(),
            priority: line.priority.unwrap_or_default(),
        });
    }
    // Lines are written when requests end; here they stand as they came.
    uses.sort_by_key(|request| request.at);
    let first = uses.first().map_or(Duration::ZERO, |request| request.at);
    for request in &mut uses {
        request.at -= first;
        request.end -= first;
    }
    trace.models = models.finish();
    trace.agents = match pace {
        Pace::AsRecorded => uses.into_iter().map(alone).collect(),
        Pace::AsAnswered => loops(uses),
    };
    Ok(trace)
}

/// A request that comes at its time.
fn alone(request: Use) -> Agent {
    Agent {
        start: request.at,
        rounds: 1,
        steps: vec![step(&request, Duration::ZERO)],
        caller: request.caller,
        priority: request.priority,
    }
}

fn step(request: &Use, think: Duration) -> Step {
    Step {
        model: request.model,
        others: Vec::new(),
        think,
        work: Work::Time(request.work),
    }
}

/// Requests of a caller in as many loops as it had requests at once: each goes to
/// the loop whose former answer ended last before it came.
fn loops(uses: Vec<Use>) -> Vec<Agent> {
    let mut agents: Vec<(Duration, Agent)> = Vec::new();
    let mut of_caller: HashMap<String, Vec<usize>> = HashMap::new();
    for request in uses {
        let own = of_caller.entry(request.caller.clone()).or_default();
        let free = own.iter().copied().filter(|&index| {
            let (end, agent) = &agents[index];
            *end <= request.at && agent.priority == request.priority
        });
        match free.max_by_key(|&index| agents[index].0) {
            Some(index) => {
                let (end, agent) = &mut agents[index];
                agent.steps.push(step(&request, request.at - *end));
                *end = request.end;
            }
            None => {
                own.push(agents.len());
                agents.push((request.end, alone(request)));
            }
        }
    }
    agents.into_iter().map(|(_, agent)| agent).collect()
}

/// The models of a log, and how long their loads took.
#[derive(Default)]
struct Models {
    names: Vec<String>,
    indices: HashMap<String, usize>,
    /// Of each worker: its model and its load, milliseconds.
    loads: HashMap<u64, (usize, u64)>,
}

impl Models {
    fn index(&mut self, name: &str, line: &Line) -> usize {
        let next = self.names.len();
        let index = *self.indices.entry(name.to_owned()).or_insert(next);
        if index == next {
            self.names.push(name.to_owned());
        }
        if let (Some(worker), Some(load)) = (line.worker, line.load_ms) {
            self.loads.insert(worker, (index, load));
        }
        index
    }

    /// Each with the median of its loads.
    fn finish(self) -> Vec<Model> {
        let mut loads = vec![Vec::new(); self.names.len()];
        for (index, load) in self.loads.into_values() {
            loads[index].push(load);
        }
        let models = self.names.into_iter().zip(loads);
        let model = models.map(|(name, mut loads)| {
            loads.sort_unstable();
            let mut model = Model::new(name, ByteSize::ZERO);
            // The log does not say how long a worker took to end.
            model.unload = Duration::ZERO;
            if let Some(median) = loads.get(loads.len() / 2) {
                model.load = Duration::from_millis(*median);
            }
            model
        });
        model.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::trace;

    fn line(time: u64, caller: &str, model: &str, wait: &str, duration: u64) -> String {
        format!(
            "{{\"time_ms\":{time},\"request_id\":\"r\",\"caller\":\"{caller}\",\"model\":{model},\
             \"worker\":{time},\"load_ms\":{},\"wait_ms\":{wait},\"duration_ms\":{duration}}}\n",
            time % 7
        )
    }

    fn log() -> String {
        [
            line(1_010, "y", "\"b\"", "3", 20),
            line(1_000, "x", "\"a\"", "10", 50),
            line(1_005, "x", "null", "null", 1),
            line(1_020, "x", "\"b\"", "0", 10),
            line(1_080, "x", "\"a\"", "0", 10),
        ]
        .concat()
    }

    #[test]
    fn a_log_is_read_in_the_order_in_which_requests_came() {
        let trace = trace::parse(&log(), Pace::AsRecorded).expect("a trace");
        let names: Vec<_> = trace.models.iter().map(|model| &model.name).collect();
        assert_eq!(names, ["b", "a"]);
        let seen = trace.agents.iter().map(|agent| {
            let step = &agent.steps[0];
            (agent.start.as_millis(), step.model, step.work)
        });
        let time = |ms| Work::Time(Duration::from_millis(ms));
        let expected = [
            (0, 1, time(40)),
            (10, 0, time(17)),
            (20, 0, time(10)),
            (80, 1, time(10)),
        ];
        assert_eq!(seen.collect::<Vec<_>>(), expected);
        assert_eq!(trace.skipped, 1);
        assert_eq!(trace.models[0].load, Duration::from_millis(5), "1020 % 7");
    }

    #[test]
    fn as_answered_a_caller_is_as_many_loops_as_it_had_requests_at_once() {
        let trace = trace::parse(&log(), Pace::AsAnswered).expect("a trace");
        let shape: Vec<_> = trace
            .agents
            .iter()
            .map(|agent| {
                let thinks = agent.steps.iter().map(|step| step.think.as_millis());
                (
                    agent.caller.as_str(),
                    agent.start.as_millis(),
                    thinks.collect::<Vec<_>>(),
                )
            })
            .collect();
        // The request at 80 follows the answer that ended at 50, not the one at 30.
        let expected = [
            ("x", 0, vec![0, 30]),
            ("y", 10, vec![0]),
            ("x", 20, vec![0]),
        ];
        assert_eq!(shape, expected);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let text = format!("{}{{\"time_ms\":\"now\"}}\n", log());
        let error = trace::parse(&text, Pace::AsRecorded).expect_err("no line");
        let error = error.to_string();
        assert!(
            error.starts_with("line 6: not a line of the request log: "),
            "{error}"
        );
    }
}
