//! Runs a model: to its end, where nothing may be violated; or with one rule switched off in a process
//! of its own, where a named property must be.

use std::{collections::BTreeSet, fmt::Debug, hash::Hash, process::Command, time::Instant};

use millet_core::control::Rule;
use stateright::{Checker, Expectation, HasDiscoveries, Model};

const SWITCH: &str = "MILLET_RULE_OFF";

/// Explores every state of `model`. Panics, with the actions that lead there, if an `always` property is
/// violated, and with its name if a `sometimes` property never holds: then the model shows nothing.
pub fn prove<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let begun = Instant::now();
    let properties = model.properties();
    let checker = model.checker().spawn_bfs().join();
    println!(
        "{name}: {} states, {} unique, depth {}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    for property in properties {
        match (property.expectation, checker.discovery(property.name)) {
            (Expectation::Always, Some(path)) => {
                let actions = path.into_actions();
                actions.iter().for_each(|action| println!("    {action:?}"));
                panic!("{name}: {:?} is violated by these {} actions", property.name, actions.len())
            }
            (Expectation::Sometimes, None) => panic!("{name}: never {:?}", property.name),
            (Expectation::Always | Expectation::Sometimes | Expectation::Eventually, _) => {}
        }
    }
    assert!(checker.is_done(), "{name}: not everything was explored");
}

/// Without `rule`, `model` must violate `property`. `test` is the full name of the calling test: it runs
/// again in a process of its own, because a switch holds for a whole process.
pub fn caught<M>(rule: Rule, test: &str, property: &'static str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    match std::env::var(SWITCH) {
        Ok(off) if off == rule.name() => search(rule, property, model),
        Ok(off) => panic!("{SWITCH} is {off}, this test is about {}: unset it", rule.name()),
        Err(_) => {
            let binary = std::env::current_exe().expect("a running test has a binary");
            let run = Command::new(binary)
                .args(["--exact", test, "--nocapture"])
                .env(SWITCH, rule.name())
                .output()
                .expect("this binary starts");
            let said = String::from_utf8_lossy(&run.stdout);
            let verdict = said.lines().find(|line| line.contains(CAUGHT));
            let trouble = String::from_utf8_lossy(&run.stderr);
            assert!(
                run.status.success(),
                "{test}: {} is off and nothing broke\n{said}{trouble}",
                rule.name()
            );
            println!("{}", verdict.unwrap_or_else(|| panic!("{test} is not the name of this test\n{said}")));
        }
    }
}

const CAUGHT: &str = "is caught:";

fn search<M>(rule: Rule, property: &'static str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    assert!(millet_core::control::off(rule), "built without the controls");
    let begun = Instant::now();
    let enough = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = model.checker().finish_when(enough).spawn_bfs().join();
    let states = checker.unique_state_count();
    let Some(path) = checker.discovery(property) else {
        panic!("{:?} off: {property:?} holds in all of {states} states", rule)
    };
    let actions = path.into_actions();
    println!(
        "no {rule:?} {CAUGHT} {property:?} by {} actions, {states} states, {:.1} s",
        actions.len(),
        begun.elapsed().as_secs_f64()
    );
    actions.iter().for_each(|action| println!("    {action:?}"));
}

/// Declares the test `$test`: without `$rule`, `$model` violates `$property`.
#[macro_export]
macro_rules! control {
    ($(#[$doc:meta])* $test:ident: $rule:expr, $property:expr, $model:expr) => {
        $(#[$doc])*
        #[test]
        fn $test() {
            let path = concat!(module_path!(), "::", stringify!($test));
            let (_, test) = path.split_once("::").expect("a module path starts with its crate");
            $crate::check::caught($rule, test, $property, $model);
        }
    };
}
