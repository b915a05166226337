//! A script in its sandbox: it is compiled once, and its functions are called with plain values.
//!
//! It has no modules, no files, no clock and no output, and cannot sleep; operations, time, depth of calls
//! and the size of what it makes are bounded. The size of a value does not tell what is bound to a pointer
//! to a function, so nothing can be.

use std::cell::Cell;
use std::time::Duration;

use jiff::ZonedDateTime;
use rhai::{AST, CallFnOptions, Dynamic, Engine, EvalAltResult, FuncArgs, Scope};

use super::RequestFacts;
use crate::admission::Priority;

/// The longest script, in bytes.
pub(crate) const MAX_SCRIPT: usize = 64 << 10;
/// How many operations one call may take.
const MAX_OPERATIONS: u64 = 20_000;
/// After how many of them the clock is looked at.
const LOOK_AFTER: u64 = 64;
/// How long a script may take to say how urgent a request is.
const PATIENCE: Duration = Duration::from_millis(2);
/// The depth of calls.
const MAX_CALLS: usize = 16;
/// The longest text and the largest list that a script may make.
const MAX_TEXT: usize = 4096;
const MAX_LIST: usize = 256;
/// The most that a script may add or take away, in milliseconds: an hour.
const MAX_EXTRA_MS: i64 = 3_600_000;

/// What of the language a script may not use: what runs texts, and what binds values to functions.
const FORBIDDEN: [&str; 3] = ["eval", "Fn", "curry"];

const FILTER: &str = "filter";
const SCORE: &str = "score";
const PRIORITY: &str = "priority";
/// What is called, with how many parameters, and how that is written.
const CALLED: [(&str, usize, &str); 3] = [
    (FILTER, 2, "filter(request, worker)"),
    (SCORE, 2, "score(request, worker)"),
    (PRIORITY, 1, "priority(request)"),
];

/// A script that was understood.
#[derive(Debug)]
pub struct Script {
    engine: Engine,
    ast: AST,
    has_filter: bool,
    has_score: bool,
    has_priority: bool,
}

/// A script is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// It is too long.
    #[error("the script has more than {MAX_SCRIPT} bytes")]
    TooLong,
    /// It cannot be understood.
    #[error("{0}")]
    Syntax(String),
    /// It has none of the functions that are called.
    #[error(
        "it has none of the functions filter(request, worker), score(request, worker) and \
         priority(request)"
    )]
    NoFunction,
    /// A function that is called takes something else.
    #[error("a function {name} with {found} parameters is never called: it must be {form}")]
    Parameters {
        /// What it is called.
        name: &'static str,
        /// How many it takes.
        found: usize,
        /// How it is to be written.
        form: &'static str,
    },
    /// A function failed.
    #[error("{function} failed: {reason}")]
    Failed {
        /// Which one.
        function: &'static str,
        /// How.
        reason: String,
    },
    /// A function took too long.
    #[error("{function} took too long")]
    Slow {
        /// Which one.
        function: &'static str,
    },
}

thread_local! {
    /// When the script that runs in this thread has to end, by the clock of the thread.
    static DEADLINE: Cell<Option<Duration>> = const { Cell::new(None) };
}

impl Script {
    /// Compiles a script.
    pub fn compile(text: &str) -> Result<Self, ScriptError> {
        if text.len() > MAX_SCRIPT {
            return Err(ScriptError::TooLong);
        }
        let engine = sandbox();
        let ast = engine.compile(text).map_err(|error| ScriptError::Syntax(error.to_string()))?;
        for known in ast.iter_functions() {
            let wrong = CALLED
                .into_iter()
                .find(|(name, params, _)| known.name == *name && known.params.len() != *params);
            if let Some((name, _, form)) = wrong {
                return Err(ScriptError::Parameters { name, found: known.params.len(), form });
            }
        }
        let has = |name: &str, params: usize| {
            ast.iter_functions().any(|known| known.name == name && known.params.len() == params)
        };
        let (has_filter, has_score, has_priority) =
            (has(FILTER, 2), has(SCORE, 2), has(PRIORITY, 1));
        if !(has_filter || has_score || has_priority) {
            return Err(ScriptError::NoFunction);
        }
        Ok(Self { engine, ast, has_filter, has_score, has_priority })
    }

    /// Whether it says anything about places.
    pub(super) fn judges_places(&self) -> bool {
        self.has_filter || self.has_score
    }

    /// Whether it says anything about how urgent requests are.
    pub(super) fn judges_requests(&self) -> bool {
        self.has_priority
    }

    /// How urgent a request is at present: as it says itself, or as the script says.
    pub fn priority_of(&self, request: &RequestFacts<'_>) -> Result<Priority, ScriptError> {
        if !self.has_priority {
            return Ok(request.priority);
        }
        self.priority(&request.value(&ZonedDateTime::now()), cpu_time() + PATIENCE)
    }

    /// Whether a place may be taken; the script has until `deadline`.
    pub(super) fn filter(
        &self,
        request: &Dynamic,
        worker: &Dynamic,
        deadline: Duration,
    ) -> Result<bool, ScriptError> {
        if !self.has_filter {
            return Ok(true);
        }
        let said = self.call(FILTER, (request.clone(), worker.clone()), deadline)?;
        said.as_bool().map_err(|kind| wrong(FILTER, "true or false", kind))
    }

    /// The milliseconds that a place is taken to be slower than it is.
    pub(super) fn score(
        &self,
        request: &Dynamic,
        worker: &Dynamic,
        deadline: Duration,
    ) -> Result<i64, ScriptError> {
        if !self.has_score {
            return Ok(0);
        }
        let said = self.call(SCORE, (request.clone(), worker.clone()), deadline)?;
        let number = match said.as_int() {
            Ok(number) => number,
            Err(_) => whole(said.as_float().map_err(|kind| wrong(SCORE, "a number", kind))?),
        };
        Ok(number.clamp(-MAX_EXTRA_MS, MAX_EXTRA_MS))
    }

    /// How urgent a request is.
    pub(super) fn priority(
        &self,
        request: &Dynamic,
        deadline: Duration,
    ) -> Result<Priority, ScriptError> {
        let said = self.call(PRIORITY, (request.clone(),), deadline)?;
        let expected = "\"interactive\" or \"batch\"";
        let kind = said.type_name();
        let name = said.into_string().map_err(|_| wrong(PRIORITY, expected, kind))?;
        match name.as_str() {
            "interactive" => Ok(Priority::Interactive),
            "batch" => Ok(Priority::Batch),
            other => {
                let other: String = other.chars().take(40).collect();
                Err(wrong(PRIORITY, expected, format!("{other:?}")))
            }
        }
    }

    fn call(
        &self,
        function: &'static str,
        arguments: impl FuncArgs,
        deadline: Duration,
    ) -> Result<Dynamic, ScriptError> {
        if cpu_time() >= deadline {
            return Err(ScriptError::Slow { function });
        }
        DEADLINE.set(Some(deadline));
        // What stands outside of functions is never run.
        let options = CallFnOptions::new().eval_ast(false);
        let mut scope = Scope::new();
        let said =
            self.engine.call_fn_with_options(options, &mut scope, &self.ast, function, arguments);
        DEADLINE.set(None);
        said.map_err(|error| failure(function, &error))
    }
}

/// How long this thread has computed: a script is not slow because the machine is busy.
pub(super) fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn sandbox() -> Engine {
    let mut engine = Engine::new();
    engine
        .set_max_operations(MAX_OPERATIONS)
        .set_max_call_levels(MAX_CALLS)
        .set_max_expr_depths(64, 32)
        .set_max_functions(64)
        .set_max_variables(64)
        .set_max_string_size(MAX_TEXT)
        .set_max_array_size(MAX_LIST)
        .set_max_map_size(MAX_LIST)
        // A field that is misspelt would else be `()`, and a comparison with it false for everybody.
        .set_fail_on_invalid_map_property(true)
        .on_print(|_| {})
        .on_debug(|_, _, _| {})
        .on_progress(|operations| {
            let is_over = operations % LOOK_AFTER == 0
                && DEADLINE.get().is_some_and(|deadline| cpu_time() >= deadline);
            is_over.then_some(Dynamic::UNIT)
        });
    for symbol in FORBIDDEN {
        engine.disable_symbol(symbol);
    }
    // In the place of those of the language.
    engine
        .register_fn("sleep", |_: i64| refuse_to_wait())
        .register_fn("sleep", |_: f64| refuse_to_wait());
    engine
}

fn refuse_to_wait() -> Result<(), Box<EvalAltResult>> {
    Err("a script may not wait".into())
}

fn failure(function: &'static str, error: &EvalAltResult) -> ScriptError {
    match innermost(error) {
        EvalAltResult::ErrorTerminated(..) | EvalAltResult::ErrorTooManyOperations(..) => {
            ScriptError::Slow { function }
        }
        other => {
            let reason: String = other.to_string().chars().take(300).collect();
            ScriptError::Failed { function, reason }
        }
    }
}

/// The failure itself, below the calls that led to it.
fn innermost(error: &EvalAltResult) -> &EvalAltResult {
    match error {
        EvalAltResult::ErrorInFunctionCall(_, _, inner, _) => innermost(inner),
        other => other,
    }
}

fn wrong(function: &'static str, expected: &str, got: impl std::fmt::Display) -> ScriptError {
    let reason = format!("it must give {expected}, and gave {got}");
    ScriptError::Failed { function, reason }
}

/// The number without its fraction; 0 for what is none.
#[expect(clippy::cast_possible_truncation, reason = "what is beyond the bounds is brought back")]
fn whole(number: f64) -> i64 {
    number.round() as i64
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_a_script_says_is_taken_and_what_makes_no_sense_is_its_failure() {
        let script =
            |body: &str| Script::compile(&format!("fn score(request, worker) {{ {body} }}"));
        for (body, expected) in [
            ("5", Ok(5)),
            ("-1.6", Ok(-2)),
            ("10_000_000_000", Ok(MAX_EXTRA_MS)),
            ("if worker.id == \"w-1\" { 7 } else { 0 }", Ok(7)),
        ] {
            let worker = rhai::Map::from([("id".into(), "w-1".into())]);
            assert_eq!(score(&script(body).unwrap(), &worker.into()), expected, "{body}");
        }
        for body in ["\"much\"", "worker.id", "nothing", "1 / 0", "eval(\"1\")", "throw \"x\""] {
            let refused = match script(body) {
                Ok(script) => score(&script, &Dynamic::UNIT).unwrap_err(),
                Err(error) => error,
            };
            assert!(
                matches!(refused, ScriptError::Failed { .. } | ScriptError::Syntax(_)),
                "{body}: {refused}"
            );
        }
    }

    #[test]
    fn a_script_that_loops_grows_or_recurses_for_ever_ends_in_time() {
        for body in [
            "loop {}",
            "while true { }",
            "let x = \"a\"; loop { x += x; }",
            "let x = []; loop { x.push(x); }",
            "let x = #{}; let i = 0; loop { i += 1; x[`${i}`] = x; }",
            "score(request, worker)",
            "let x = 0; for i in 0..1000000000 { x += i; } x",
        ] {
            let script = format!("fn score(request, worker) {{ {body} }}");
            let script = Script::compile(&script).unwrap();
            let began = Instant::now();
            assert!(score(&script, &Dynamic::UNIT).is_err(), "{body}");
            assert!(began.elapsed() < Duration::from_secs(1), "{body}: {:?}", began.elapsed());
        }
    }

    #[test]
    fn a_script_cannot_wait_and_cannot_hide_values_behind_functions() {
        for body in [
            "sleep(1)",
            "sleep(1.5)",
            "let f = Fn(\"sleep\"); f.call(1)",
            "Fn(\"score\").curry(1)",
            "let f = |x| x; loop { f = curry(f, f); }",
            "let f = |x| x; loop { f = f.curry(f); }",
            "let x = 1; let f = || x; f.call()",
            "[1].map(\"sleep\")",
            "request.sleep()",
            "eval(\"sleep(1)\")",
        ] {
            let script = format!("fn score(request, worker) {{ {body}; 0 }}");
            let began = Instant::now();
            let said = Script::compile(&script).and_then(|script| score(&script, &Dynamic::UNIT));
            assert!(said.is_err(), "{body}: {said:?}");
            assert!(began.elapsed() < Duration::from_secs(1), "{body}");
        }
        let with_a_function = "fn score(r, w) { [1, 5, 2].filter(|x| x > 1).len() }";
        assert_eq!(score(&Script::compile(with_a_function).unwrap(), &Dynamic::UNIT), Ok(2));
    }

    #[test]
    fn a_script_without_a_function_that_is_called_and_one_that_imports_are_refused() {
        for text in ["", "fn filter(worker) { true }", "let x = 5;", "import \"os\" as os;", "fn ("]
        {
            assert!(Script::compile(text).is_err(), "{text}");
        }
        for (wrong, form) in [
            ("fn priority(request, worker) { \"batch\" }", "priority(request)"),
            ("fn score(request) { 1 }", "score(request, worker)"),
            ("fn filter(request) { true }", "filter(request, worker)"),
        ] {
            let beside = format!("fn score(request, worker) {{ 1 }} {wrong}");
            let refused = Script::compile(&beside).unwrap_err();
            assert!(matches!(refused, ScriptError::Parameters { .. }), "{wrong}: {refused}");
            assert!(refused.to_string().ends_with(form), "{wrong}: {refused}");
        }
        let long = format!("fn filter(a, b) {{ true }} // {}", "x".repeat(MAX_SCRIPT));
        assert_eq!(Script::compile(&long).unwrap_err(), ScriptError::TooLong);
    }

    fn score(script: &Script, worker: &Dynamic) -> Result<i64, ScriptError> {
        let deadline = cpu_time() + Duration::from_millis(50);
        script.score(&Dynamic::UNIT, worker, deadline)
    }
}
