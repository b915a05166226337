//! When to propose a queen with the hive inside. Pure: facts in, advice out.

use worker_contract::HiveAlias;

/// What a hive operation costs either way.
///
/// Measured by `./bench.sh hive`: the whole job that lists workers, at the median.
pub(crate) const MEASURED_DIFFERENCE: &str = "about 0.2 ms instead of 0.6 ms";

/// What is known when somebody wants to start a hive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// The hive.
    pub(crate) alias: &'a HiveAlias,
    /// Whether the running queen has the feature `local-hive`.
    pub(crate) queen_has_local_hive: bool,
    /// Whether somebody can answer: a terminal on both sides, and no `--json`.
    pub(crate) can_ask: bool,
    /// Whether `--yes` was given.
    pub(crate) yes: bool,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advice {
    /// There is nothing to recommend.
    Start,
    /// Say the recommendation and start the hive.
    SayAndStart,
    /// Say the recommendation and ask whether to start the hive all the same.
    Ask,
}

/// Decides.
pub(crate) fn advise(facts: Facts<'_>) -> Advice {
    if !facts.alias.is_localhost() || facts.queen_has_local_hive {
        Advice::Start
    } else if facts.yes || !facts.can_ask {
        Advice::SayAndStart
    } else {
        Advice::Ask
    }
}

/// The recommendation for a person.
pub(crate) fn recommendation() -> String {
    format!(
        "this queen talks to the hive of its own machine over HTTP. With the hive inside the \
         queen a hive operation takes {MEASURED_DIFFERENCE}:\n  \
         rbee-keeper queen rebuild --with-local-hive"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hive_inside_is_proposed_where_it_helps_and_never_stops_a_script() {
        //   alias      inside  can_ask yes    advice
        for (alias, inside, can_ask, yes, advice) in [
            ("localhost", false, true, false, Advice::Ask),
            ("localhost", false, true, true, Advice::SayAndStart),
            ("localhost", false, false, false, Advice::SayAndStart),
            ("localhost", false, false, true, Advice::SayAndStart),
            ("localhost", true, true, false, Advice::Start),
            ("localhost", true, false, true, Advice::Start),
            ("gpu-1", false, true, false, Advice::Start),
            ("gpu-1", true, false, true, Advice::Start),
        ] {
            let alias = alias.parse().unwrap();
            let facts = Facts { alias: &alias, queen_has_local_hive: inside, can_ask, yes };
            assert_eq!(advise(facts), advice, "{facts:?}");
        }
    }

    #[test]
    fn the_recommendation_names_the_command_and_the_gain() {
        let text = recommendation();
        assert!(text.contains("queen rebuild --with-local-hive"), "{text}");
        assert!(text.contains(MEASURED_DIFFERENCE), "{text}");
    }
}
